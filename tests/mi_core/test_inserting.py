from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import LAYOUTS, ROWS, SEEDS, close, laid_out, random, small
from torch import Tensor

import mi_core as mi
from mi_core.errors import HookContractBroken, NotSerialisable, SpecError, UnknownPoint
from mi_core.protocols import Site, Tap

IN, OUT = "blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"
ACTS = Site("hook_acts", ("batch", "pos", "feature"), {"feature": 5})
ENCODER = random(16, 5, seed=1)


@dataclass(eq=False)
class Module:
    """Reads points, offers its features, writes what they decode to."""

    reads: Sequence[str] = (IN,)
    writes: Sequence[str] = (IN,)
    sites: Sequence[Site] = (ACTS,)
    keep: bool = False
    calls: int = 0

    def __call__(self, values: Mapping[str, Tensor], tap: Tap) -> Mapping[str, Tensor]:
        self.calls += 1
        x = sum(values.values())
        assert isinstance(x, Tensor)
        acts = tap("hook_acts", x @ ENCODER)
        new = acts @ ENCODER.T
        return {name: values[name] if self.keep else new for name in self.writes}


@given(ROWS, LAYOUTS, SEEDS, st.sampled_from([None, 3]))
def test_an_insert_reads_offers_and_writes(rows: list[list[int]], layout: str, seed: int, limit: int | None) -> None:
    ids, mask = laid_out(rows, layout, seed)
    spec = mi.insert(Module(), IN) + mi.capture([IN, f"{IN}.hook_acts"]) + mi.capture(IN, before=True)
    run = small().run(ids, spec, attention_mask=mask, batch_tokens=limit)
    close(run[f"{IN}.hook_acts"], run.before[IN] @ ENCODER, 1e-4)
    close(run[IN], run.before[IN] @ ENCODER @ ENCODER.T, 1e-4)
    assert list(run) == [IN, f"{IN}.hook_acts"]
    by_hand = small().run(ids, mi.intervene(IN, mi.Replace(run[IN])), attention_mask=mask)
    close(run.logits, by_hand.logits, 1e-4)


def test_an_insert_that_returns_what_it_read_changes_nothing() -> None:
    run = small().run([[1, 2, 3], [4]], mi.insert(Module(keep=True), "mine") + mi.capture("mine.hook_acts"))
    assert torch.equal(run.logits, small().run([[1, 2, 3], [4]]).logits)
    assert run.at("mine.hook_acts", feature=2).shape == (2, 3)
    assert run.receipt.fired == (IN, "mine.hook_acts")


def test_an_inserts_own_points_are_edited_like_any_other() -> None:
    edit = mi.intervene("mine.hook_acts", mi.Zero().at(feature=[0, 3], pos=-1))
    run = small().run([[1, 2]], mi.insert(Module(), "mine") + edit + mi.capture(["mine.hook_acts", IN]))
    assert not run["mine.hook_acts"][0, 1, [0, 3]].any()
    close(run[IN], run["mine.hook_acts"] @ ENCODER.T, 1e-4)


def test_an_insert_may_read_several_points_and_write_later() -> None:
    module = Module(reads=(IN, "blocks.1.attn.out"), writes=(OUT, "blocks.2.hook_resid_pre"))
    run = small().run([[1, 2]], mi.insert(module, "far") + mi.capture([IN, "blocks.1.attn.hook_out", OUT]))
    assert module.calls == 1
    x = run[IN] + run["blocks.1.attn.hook_out"]
    close(run[OUT], x @ ENCODER @ ENCODER.T, 1e-4)
    stopped = small().run([[1, 2]], mi.insert(module, "far"), logits=None)
    assert stopped.receipt.layers == (0, 1, 2)


def test_interventions_and_inserts_apply_in_the_order_of_the_spec() -> None:
    double, module = mi.intervene(IN, mi.Scale(2.0)), mi.insert(Module(), "mine")
    plain = small().run([[1, 2]], mi.capture(IN))[IN] @ ENCODER @ ENCODER.T
    for spec in (double + module, module + double):
        close(small().run([[1, 2]], spec + mi.capture(IN))[IN], 2 * plain, 1e-4)
    added = mi.intervene(IN, mi.Add(1.0))
    close(small().run([[1, 2]], module + added + mi.capture(IN))[IN], plain + 1, 1e-4)
    assert not torch.allclose(small().run([[1, 2]], added + module + mi.capture(IN))[IN], plain + 1)


class Adding(Module):
    """Adds what it decodes, to each point that it writes."""

    def __call__(self, values: Mapping[str, Tensor], tap: Tap) -> Any:
        acts = tap("hook_acts", values[self.reads[0]] @ ENCODER)
        return {name: mi.Add(acts @ ENCODER.T, scale=0.5) for name in self.writes}


def test_inserts_that_add_at_one_point_add_up_with_what_stands_there() -> None:
    first, second = Adding(writes=(IN, OUT)), Adding(reads=("blocks.1.hook_resid_mid",), writes=(OUT,))
    spec = mi.insert(first, "first") + mi.insert(second, "second")
    kept = mi.capture(["blocks.1.hook_resid_mid", OUT])
    run = small().run([[1, 2], [3]], spec + kept + mi.capture([IN, OUT], before=True))
    added = (run.before[IN] + run["blocks.1.hook_resid_mid"]) @ ENCODER @ ENCODER.T / 2
    close(run[OUT], run.before[OUT] + added, 1e-4)
    replaced = small().run([[1, 2], [3]], mi.insert(Module(reads=(OUT,), writes=(OUT,)), "whole") + spec + kept)
    assert not torch.allclose(replaced[OUT], run[OUT])


def test_an_insert_may_leave_a_point_as_it_is() -> None:
    class Leaving(Module):
        def __call__(self, values: Mapping[str, Tensor], tap: Tap) -> Any:
            tap("hook_acts", values[IN] @ ENCODER)
            return dict.fromkeys(self.writes)

    run = small().run([[1, 2, 3], [4]], mi.insert(Leaving(writes=(IN, OUT)), "x") + mi.capture("x.hook_acts"))
    assert torch.equal(run.logits, small().run([[1, 2, 3], [4]]).logits)


def test_gradients_pass_through_an_insert() -> None:
    run = small().run([[1, 2]], mi.insert(Module(), "mine") + mi.capture("mine.hook_acts"), grad=True)
    assert run.grad(lambda logits: logits[:, 0], "mine.hook_acts")["mine.hook_acts"].abs().sum() > 0


def wrong(result: Any) -> Module:
    class Wrong(Module):
        def __call__(self, values: Mapping[str, Tensor], tap: Tap) -> Any:
            tap("hook_acts", values[IN] @ ENCODER)
            return result

    return Wrong()


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        (mi.insert(Module(reads=(OUT,), writes=(IN,)), "x"), SpecError, "comes before 'blocks.1.hook_mlp_out'"),
        (mi.insert(Module(reads=()), "x"), SpecError, "reads nothing"),
        (mi.insert(Module(), "x") + mi.insert(Module(), "x"), SpecError, "called the same"),
        (mi.insert(Module(sites=(Site("hook_mlp_out", ("batch",)),)), "blocks.0"), SpecError, "points that exist"),
        (mi.insert(Module(reads=("blocks.0.hook_rsid_post",)), "x"), UnknownPoint, "Did you mean"),
        (mi.capture("x.hook_acts"), UnknownPoint, "has no point"),
        (mi.insert(wrong({}), "x"), HookContractBroken, r"returned \[\], but writes 'blocks.0.hook_resid_post'"),
        (mi.insert(wrong({IN: torch.zeros(3)}), "x"), HookContractBroken, r"returned \[3\] for .* \[1, 2, 16\]"),
        (mi.insert(wrong(None), "x"), HookContractBroken, "returned NoneType, not a mapping"),
        (mi.insert(wrong({IN: mi.Zero()}), "x"), HookContractBroken, r"Add\(tensor\), or None"),
        (mi.insert(wrong({IN: mi.Add(1.0)}), "x"), HookContractBroken, r"Add\(tensor\), or None"),
        (mi.insert(wrong([1]), "x"), HookContractBroken, "returned list"),
        (
            mi.insert(Module(sites=(ACTS, Site("hook_lost", ()))), "x") + mi.capture("x.hook_lost"),
            HookContractBroken,
            "'x.hook_lost' is listed .* but did not fire",
        ),
        (
            mi.insert(Module(sites=(Site("hook_acts", ("batch", "pos", "feature"), {"feature": 6}),)), "x")
            + mi.capture("x.hook_acts"),
            HookContractBroken,
            "disagree",
        ),
    ],
)
def test_inserts_that_cannot_work_are_refused(spec: mi.HookSpec, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        small().run([[1, 2]], spec)


@given(ROWS, LAYOUTS, SEEDS, st.sampled_from([None, 3]))
def test_a_narrowed_insert_writes_there_and_nowhere_else(
    rows: list[list[int]], layout: str, seed: int, limit: int | None
) -> None:
    ids, mask = laid_out(rows, layout, seed)
    spec = mi.insert(Module(), IN).at(pos=-1) + mi.capture(IN) + mi.capture(IN, before=True)
    run = small().run(ids, spec, attention_mask=mask, batch_tokens=limit)
    wanted = run.before[IN].clone()
    for row, real in enumerate(run.mask):
        last = int(real.nonzero()[-1])
        wanted[row, last] = run.before[IN][row, last] @ ENCODER @ ENCODER.T
    close(run[IN], wanted, 1e-4)


@pytest.mark.parametrize("cache", [True, False])
def test_a_narrowed_insert_in_a_generation_writes_at_its_positions(cache: bool) -> None:
    spec = mi.insert(Module(), IN).at(pos=slice(-1, 4)) + mi.capture(IN) + mi.capture(IN, before=True)
    generated = small().generate([[1, 2, 3]], spec, max_new_tokens=4, stop_at_eos=False, cache=cache)
    new = generated.before[IN] @ ENCODER @ ENCODER.T
    wanted = torch.cat([generated.before[IN][:, :2], new[:, 2:4], generated.before[IN][:, 4:]], dim=1)
    close(generated[IN], wanted, 1e-4)


def test_an_insert_is_not_saved_and_has_no_layers(tmp_path: Any) -> None:
    spec = mi.insert(Module(), "mine")
    with pytest.raises(SpecError, match="has no layers to select"):
        spec.at(layer=1)
    assert spec.at(pos=-1) != spec
    assert repr(spec.at(pos=-1)) == "insert(<Module>, 'mine').at(pos=-1)"
    with pytest.raises(NotSerialisable, match="insert"):
        spec.save(tmp_path / "x.json")
    assert repr(spec) == "insert(<Module>, 'mine')"
    assert spec != mi.insert(Module(), "mine")
