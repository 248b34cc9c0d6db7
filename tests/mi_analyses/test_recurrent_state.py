"""What a state keeps is what it loses when the token that wrote it is taken away."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from small_models import small

import mi_core as mi
from mi_analyses import RecurrentState, activation_patching, recurrent_state
from mi_core import plugins
from mi_core.building import initialise_randomly
from mi_core.cli.main import main
from mi_core.errors import SelectorError, UnsupportedAnalysis

DATA = Path(__file__).parent.parent / "data"


def beside_attention() -> mi.Model:
    """A gated delta net behind a layer of attention."""
    model = mi.build(plugins.plugin("mi_core.families", "qwen3_5_text").call("mi_family_examples")[1], trainable=False)
    initialise_randomly(model, 0)
    return model


MODELS = {name: mi.load(str(DATA / f"{name}-seed0")) for name in ("rwkv4", "rwkv5", "rwkv6", "rwkv7")}
MODELS["delta net"] = beside_attention()
RESULTS = {name: recurrent_state(model, [[7, 1, 9, 4, 2], [3, 8, 5]], progress=False) for name, model in MODELS.items()}
EVERY = pytest.mark.parametrize("version", [name for name in MODELS if name != "delta net"])
BOTH = pytest.mark.parametrize("version", ["rwkv4", "rwkv7"])
"""A mean, and a matrix."""
ROW, STATE, GATE = [7, 1, 9, 4, 2], "blocks.1.mixer.hook_state", "blocks.1.mixer.hook_write_gate"


def near(seen: torch.Tensor, wanted: torch.Tensor | float) -> None:
    torch.testing.assert_close(seen.double(), torch.as_tensor(wanted).double(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("version", ["rwkv5", "rwkv6", "rwkv7", "delta net"])
@pytest.mark.parametrize("token", [0, 2])
def test_what_is_left_of_a_write_is_what_the_state_lacks_without_it(version: str, token: int) -> None:
    model, result = MODELS[version], RESULTS[version]
    whole = model.run(ROW, mi.capture(STATE))[STATE][0]
    without = model.run(ROW, mi.intervene(GATE, mi.Zero().at(pos=token)) + mi.capture(STATE))[STATE][0]
    part = torch.linalg.matrix_norm(whole - without)[token:]  # [later head]
    near(part[0], result.write.sel(layer=1).values[:, 0, token])
    near((part / part[0]).T, result.survival.sel(layer=1).values[:, 0, token, token:])


@pytest.mark.parametrize("token", [0, 2])
def test_a_token_s_share_of_a_mean_is_what_its_weight_is_of_all(token: int) -> None:
    result = RESULTS["rwkv4"]
    state = MODELS["rwkv4"].run(ROW, mi.capture(STATE))[STATE][0, :, 0]
    gone = mi.intervene(GATE, mi.Zero().at(pos=token)) + mi.capture(STATE)
    without = MODELS["rwkv4"].run(ROW, gone)[STATE][0, :, 0]
    weights = [s[:, 1].double() * s[:, 2].double().exp() for s in (state, without)]  # [pos channel]
    share = ((weights[0] - weights[1]) / weights[0])[token:]
    near(share[0].mean(), result.write.values[1, 0, 0, token])
    near((share / share[0]).mean(-1), result.survival.values[1, 0, 0, token, token:])
    assert result.is_mean
    assert bool(result.rank.values.isnan().all())


@BOTH
def test_rows_have_their_own_numbers_and_nothing_behind_them(version: str) -> None:
    alone = recurrent_state(MODELS[version], [3, 8, 5], progress=False)
    left = torch.tensor([[0, 3, 0, 8, 5]])
    padded = recurrent_state(MODELS[version], left, attention_mask=torch.tensor([[0, 1, 0, 1, 1]]), progress=False)
    for name in ("norm", "write", *(() if version == "rwkv4" else ("rank",))):
        values = getattr(RESULTS[version], name).values[:, :, 1]
        near(values[..., :3], getattr(alone, name).values[:, :, 0])
        near(getattr(padded, name).values, getattr(alone, name).values)
        assert bool(values[..., 3:].isnan().all())


@BOTH
def test_measures_of_the_state_are_those_of_its_values(version: str) -> None:
    result, run = RESULTS[version], MODELS[version].run(ROW, mi.capture([STATE, "blocks.1.mixer.hook_log_decay"]))
    state = run[STATE][0].double()
    decay = run["blocks.1.mixer.hook_log_decay"][0, :, 0].double()
    if version == "rwkv4":
        near(result.norm.values[1, 0, 0], (state[:, 0, 0] / state[:, 0, 1]).norm(dim=-1))
    else:
        near(result.norm.values[1, :, 0], state.square().sum((-2, -1)).sqrt().T)
        shares = torch.linalg.svdvals(state)
        shares = shares / shares.sum(-1, keepdim=True)
        near(result.rank.values[1, :, 0], (-(shares * shares.log()).nan_to_num().sum(-1)).exp().T)
    lone = recurrent_state(MODELS[version], ROW, progress=False)
    near(lone.half_life.values[1, 0, 1], torch.quantile(-math.log(2) / decay, 0.5))


@BOTH
def test_a_write_is_missed_by_what_the_model_says_without_it(version: str) -> None:
    model, result = MODELS[version], recurrent_state(MODELS[version], ROW, threshold=1e-9, progress=False)
    whole = model.run(ROW).last_logits[0].log_softmax(-1)
    for points, values in ((GATE, result.removal.values[1, 2, 0]), ("blocks.*.mixer.hook_write_gate", None)):
        without = model.run(ROW, mi.intervene(points, mi.Zero().at(pos=2))).last_logits[0].log_softmax(-1)
        kl = (whole.exp() * (whole - without)).sum()
        torch.testing.assert_close(
            result.removal_everywhere.values[2, 0] if values is None else values, kl, atol=1e-5, rtol=1e-3
        )
    assert int(result.reach.values[0]) == 4
    assert int(recurrent_state(model, ROW, threshold=99.0, progress=False).reach.values[0]) == -1


@EVERY
def test_what_is_carried_is_patched_as_one(version: str) -> None:
    """All layers at once are the other prompt's prefix."""
    model, other = MODELS[version], [7, 3, 8, 4, 2]
    metric = mi.logit_diff(11, 23)
    result = activation_patching(model, ROW, other, metric, site="carried", window=3, progress=False)
    assert result.effect.dims == ("layer", "pos")
    near(result.effect.values[0, 3], 1.0)
    near(result.effect.values[0, [0, 4]], torch.zeros(2))
    mixed = model.run([7, 1, 8, 4, 2]).last_logits[0]
    near(result.metric.values[0, 1, 0], mixed[11] - mixed[23])


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UnsupportedAnalysis, match="recurrent_state"):
        recurrent_state(small(), [1, 2])
    with pytest.raises(SelectorError, match="threshold=0"):
        recurrent_state(MODELS["rwkv7"], ROW, threshold=0)


def test_the_result_comes_back_from_json_and_the_command_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = RESULTS["rwkv7"]
    again = RecurrentState.from_json(result.to_json())
    assert again.half_life == result.half_life
    assert again.reach == result.reach
    assert "effective rank" in result.to_html(tmp_path / "page.html")
    assert main(["state", "tiny-world", "The capital"]) == 2
    assert "recurrent_state cannot read" in capsys.readouterr().err
