"""Every analysis runs on recurrent models as it does on transformers, and finds what a loop of full runs finds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import mi_core as mi
from mi_analyses import activation_patching, attention_knockout, direct_logit_attribution, logit_lens

DATA = Path(__file__).parent.parent / "data"
MODELS = {name: mi.load(str(DATA / f"{name}-seed0")) for name in ("rwkv4", "rwkv5", "rwkv6", "rwkv7")}
EVERY = pytest.mark.parametrize("version", MODELS)
ROW, OTHER = [7, 1, 9, 4, 2], [7, 3, 9, 4, 2]
ANSWER, WRONG = 11, 23


def logits(version: str, row: list[int], spec: mi.HookSpec | None = None) -> Tensor:
    return MODELS[version].run(row, spec).last_logits[0]


def near(seen: Tensor, wanted: Tensor | float) -> None:
    torch.testing.assert_close(seen, torch.as_tensor(wanted), atol=2e-5, rtol=1e-4)


@EVERY
def test_the_lens_ends_at_the_logits(version: str) -> None:
    model = MODELS[version]
    lens = logit_lens(model, ROW, tokens=[ANSWER])
    near(lens.token_probability.values[-1, 0, -1, 0], logits(version, ROW).softmax(-1)[ANSWER])


@pytest.mark.parametrize(
    ("version", "site"), [*((name, "hook_resid_pre") for name in MODELS), ("rwkv7", "mixer.hook_v")]
)
def test_patches_are_those_of_full_runs(version: str, site: str) -> None:
    model = MODELS[version]
    metric = mi.logit_diff(ANSWER, WRONG)
    result = activation_patching(model, ROW, OTHER, metric, site=site, each=("layer", "pos"), progress=False)
    clean = model.run(ROW, mi.capture(f"blocks.*.{site}"))
    for layer, pos in ((0, 1), (1, 3), (2, 4)):
        patched = logits(version, OTHER, mi.intervene(f"blocks.{layer}.{site}", mi.Replace(clean).at(pos=pos)))
        near(result.metric.values[layer, pos, 0], patched[ANSWER] - patched[WRONG])


@EVERY
def test_attributions_sum_to_the_logit(version: str) -> None:
    result = direct_logit_attribution(MODELS[version], ROW, ANSWER, WRONG)
    whole = logits(version, ROW)
    near(result.logit.values[0], whole[ANSWER] - whole[WRONG])
    near(result.component.values.sum(0), result.logit.values)
    # heads sum to what their layer writes: there is no bias behind W_O
    near(result.head.values.sum(1)[:, 0], result.component.sel(component=[f"{i}.attn" for i in range(3)]).values[:, 0])


@EVERY
def test_edges_are_cut_as_in_full_runs(version: str) -> None:
    result = attention_knockout(MODELS[version], ROW, ANSWER, progress=False)
    whole = logits(version, ROW).softmax(-1)[ANSWER]
    for layer, key in ((0, 1), (2, 3)):
        cut = mi.intervene(f"blocks.{layer}.mixer.hook_effective_attn", mi.Knockout(query=-1, key=key))
        near(result.probability.values[layer, key, 0], logits(version, ROW, cut).softmax(-1)[ANSWER] - whole)


@EVERY
def test_generation_is_steered(version: str) -> None:
    model = MODELS[version]
    vector = torch.randn(model.shape.d_model, generator=torch.Generator().manual_seed(0))
    steer = mi.intervene("blocks.1.hook_resid_post", mi.Add(vector, scale=20.0))
    new = model.generate(ROW, steer, max_new_tokens=4).new_tokens[0]
    row = list(ROW)
    for token in new:
        assert int(logits(version, row, steer).argmax()) == token
        row.append(token)
    assert new != model.generate(ROW, max_new_tokens=4).new_tokens[0]
