"""What is written inside attention reaches what it should, and reading changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import mi_core as mi
from mi_core.protocols import Batch
from mi_core.taps import IDLE, IdleTap
from mi_families.llama import mi_family_examples

MODEL = mi.build({**mi_family_examples()[1], "num_hidden_layers": 1}, seed=2, trainable=False)
with torch.no_grad():
    for parameter in MODEL.backend.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))


class Writing(IdleTap):
    """A tap that writes one site, or only reads it."""

    def __init__(self, site: str, write: Callable[[Tensor], Tensor] | None = None, also: str = "") -> None:
        self.site, self.write, self.also = site, write, also
        self.seen: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name == self.site and self.write is not None:
            value = self.write(value)
        self.seen[name] = value
        return value

    def wants(self, *names: str) -> bool:
        return self.site in names or self.also in names

    def edits(self, *names: str) -> bool:
        return self.write is not None and self.site in names


@torch.no_grad()
def run(tap: IdleTap = IDLE) -> Tensor:
    ids = torch.arange(12).view(2, 6)
    zeros = torch.zeros(2, dtype=torch.long)
    batch = Batch(ids, zeros, zeros + 6, zeros + 6, torch.arange(6).expand(2, 6))
    stream, _ = MODEL.backend.blocks[0](MODEL.backend.embed(batch, IDLE), batch, tap, None)
    return stream.resid


def without_head(axis: int) -> Callable[[Tensor], Tensor]:
    return lambda value: value.index_fill(axis, torch.tensor([1]), 0.0)


BESIDE = ["ln1.hook_scale", "ln2.hook_normalized", "attn.hook_k_per_head", "attn.hook_v_per_head", "attn.hook_result"]
PLAIN = [
    "attn.hook_in",
    "attn.hook_q",
    "attn.hook_rot_k",
    "attn.hook_z",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_out",
]


@pytest.mark.parametrize("site", BESIDE + PLAIN)
def test_reading_changes_no_bit(site: str) -> None:
    tap = Writing(site)
    assert torch.equal(run(tap), run())
    assert site in tap.seen


@pytest.mark.parametrize("site", [*BESIDE, "attn.hook_attn_scores", "attn.hook_pattern"])
def test_writing_back_what_was_read_changes_nothing_but_rounding(site: str) -> None:
    torch.testing.assert_close(run(Writing(site, torch.clone)), run(), atol=1e-5, rtol=0)


def test_a_head_without_its_result_is_a_head_without_its_values() -> None:
    wanted = run(Writing("attn.hook_z", without_head(2)))
    assert not torch.allclose(wanted, run(), atol=1e-3)
    for site in ("attn.hook_result", "attn.hook_v_per_head"):
        torch.testing.assert_close(run(Writing(site, without_head(2))), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(run(Writing("attn.hook_pattern", without_head(1))), wanted, atol=1e-5, rtol=0)


def test_the_results_and_the_bias_sum_to_the_output() -> None:
    tap = Writing("attn.hook_result")
    run(tap)
    total = tap.seen["attn.hook_result"].sum(2) + MODEL.backend.weight("blocks.0.attn.b_O")
    torch.testing.assert_close(total, tap.seen["attn.hook_out"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("fused", [True, False])
def test_a_key_written_for_one_head_reaches_that_head_alone(fused: bool) -> None:
    also = "" if fused else "attn.hook_pattern"
    before, after = Writing("attn.hook_k_per_head", None, also), Writing("attn.hook_k_per_head", without_head(2), also)
    run(before)
    run(after)
    changed = (before.seen["attn.hook_z"] - after.seen["attn.hook_z"]).abs().amax((0, 1, 3)) > 1e-4
    assert changed.tolist() == [False, True, False, False]


def test_a_written_neuron_is_not_changed_in_place() -> None:
    kept: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        kept.append(value.clone())
        return value

    for site in ("mlp.hook_pre", "mlp.hook_pre_linear", "attn.hook_q", "attn.hook_k", "attn.hook_attn_scores"):
        kept.clear()
        run(Writing(site, keep))
        assert torch.equal(kept[0], kept[1])
