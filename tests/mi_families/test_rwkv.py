"""RWKV-4, 5, 6 and 7 give the numbers of their references: logits, states, what lies between, scaled writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_data import reference_folder
from safetensors.torch import load_file, save_file
from torch import Tensor

import mi_core as mi
from mi_core.errors import BadConfig, MissingTensors, ReadOnlyPoint, TensorMismatch
from mi_core.model import Model

DATA = Path(__file__).parent.parent / "data"
VERSIONS = ("rwkv4", "rwkv5", "rwkv6", "rwkv7")
SEQUENCES = ("one", "short", "mid", "long")
STATE, SHIFT, CHANNEL = (f"mixer.hook_{name}" for name in ("state", "shift", "channel_shift"))
REAL = ("rwkv4-tiny-660K", "rwkv5-tiny-730K", "rwkv5-tiny-730K-eps1e-5", "rwkv6-tiny-3m-q5_1", "rwkv7-tiny-834K")


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(version: str) -> Model:
    return mi.load(str(DATA / f"{version}-seed0"))


@pytest.fixture(scope="module")
def reference(version: str) -> dict[str, Tensor]:
    return load_file(DATA / f"{version}-seed0" / "reference.safetensors")


def close(ours: Tensor, theirs: Tensor, bound: float) -> None:
    assert ours.shape == theirs.shape
    difference = float((ours.double() - theirs.double()).abs().max())
    assert difference <= bound, f"largest difference {difference:.2e}, at most {bound:.0e} wanted"


def relative(theirs: Tensor, bound: float = 2e-5) -> float:
    return bound * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_logits_are_the_reference_s(sequence: str, model: Model, reference: dict[str, Tensor]) -> None:
    logits = model.run(reference[f"{sequence}.ids"]).logits[0]
    close(logits, reference[f"{sequence}.logits64"], 5e-5)
    close(logits, reference[f"{sequence}.logits"], 5e-5)


def test_logits_in_double_precision_are_the_float64_loop_s(version: str, reference: dict[str, Tensor]) -> None:
    model = mi.load(str(DATA / f"{version}-seed0"), dtype="float64")
    for sequence in SEQUENCES:
        wanted = reference[f"{sequence}.logits64"]
        close(model.run(reference[f"{sequence}.ids"]).logits[0], wanted, 1e-12)


def same_state(run: Any, wanted: dict[str, Tensor], at: int) -> None:
    """States and shifts behind a position, in every layer."""
    close(run.stack(SHIFT)[:, 0, at], wanted["att_shift"], relative(wanted["att_shift"]))
    close(run.stack(CHANNEL)[:, 0, at], wanted["ffn_shift"], relative(wanted["ffn_shift"]))
    state = run.stack(STATE)[:, 0, at].double()
    if "wkv" in wanted:
        close(state, wanted["wkv"], relative(wanted["wkv"]))
        return
    # numerator and denominator are known up to their scale
    top, bottom, scale = state[:, 0].unbind(1)
    close(top / bottom, wanted["num"] / wanted["den"], 2e-5)
    close(bottom.log() + scale, wanted["den"].log() + wanted["max"], 2e-5)


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_states_are_the_reference_s(sequence: str, model: Model, reference: dict[str, Tensor]) -> None:
    run = model.run(reference[f"{sequence}.ids"], mi.capture([f"blocks.*.{site}" for site in (STATE, SHIFT, CHANNEL)]))
    head = f"{sequence}.state."
    same_state(run, {k.removeprefix(head): v for k, v in reference.items() if k.startswith(head)}, -1)
    if sequence == "mid":
        head = "mid_first20.state."
        same_state(run, {k.removeprefix(head): v for k, v in reference.items() if k.startswith(head)}, 19)


INSIDE = {
    "hook_resid_pre": "hook_resid_pre",
    "hook_resid_mid": "hook_resid_mid",
    "hook_resid_post": "hook_resid_post",
    "hook_att_out": "hook_attn_out",
    "hook_ffn_out": "hook_mlp_out",
    "ffn.hook_k": "mlp.hook_post",
    "ffn.hook_r": "mlp.hook_r",
    "att.hook_eff_attn": "mixer.hook_effective_attn",
}
"""The reference's names -> ours; the others are the same behind ``mixer.``."""


def test_what_lies_between_is_the_reference_s(model: Model, version: str, reference: dict[str, Tensor]) -> None:
    on_demand = ["blocks.*.mixer.hook_effective_attn", f"blocks.*.{STATE}"]
    run = model.run(reference["short.ids"], mi.capture("*") + mi.capture(on_demand))
    seen = 0
    for name, wanted in reference.items():
        head, _, rest = name.partition("short.cache.blocks.")
        if head or not rest:
            continue
        layer, _, site = rest.partition(".")
        if site == "att.hook_w":
            continue  # the decay before its exponentials, which has no name here
        ours = INSIDE.get(site, site.replace("att.", "mixer.").replace("hook_decay", "hook_log_decay"))
        value = run[f"blocks.{layer}.{ours}"][0]
        value = value.exp() if site == "att.hook_decay" else value
        if site == "att.hook_state" and version == "rwkv4":
            value, wanted = (x[:, 0] / x[:, 1] for x in (value[:, 0], wanted))
        close(value.reshape(wanted.shape), wanted, relative(wanted))
        seen += 1
    assert seen > 30


def scaled(*cases: tuple[int | None, int, float]) -> mi.HookSpec:
    """Write gates of (layer, position), scaled."""
    names = [(f"blocks.{'*' if layer is None else layer}.mixer.hook_write_gate", pos, by) for layer, pos, by in cases]
    return sum((mi.intervene(name, mi.Scale(by).at(pos=pos)) for name, pos, by in names), mi.HookSpec())


@pytest.mark.parametrize(
    ("case", "spec"),
    [
        ("ko_all_p2", scaled((None, 2, 0.0))),
        ("ko_l1_p2", scaled((1, 2, 0.0))),
        ("scale_l0p4_2_l1p1_half", scaled((0, 4, 2.0), (1, 1, 0.5))),
    ],
)
def test_scaled_writes_give_the_reference_s_logits(
    case: str, spec: mi.HookSpec, model: Model, reference: dict[str, Tensor]
) -> None:
    close(model.run(reference["short.ids"], spec).logits[0], reference[f"short.write_scale.{case}.logits64"], 5e-5)


@pytest.mark.parametrize("name", REAL)
def test_trained_models_give_the_reference_s_logits(name: str) -> None:
    folder = reference_folder("recurrent", "real", name)
    model, wanted = mi.load(str(folder), dtype="float32"), load_file(folder / "reference.safetensors")
    for sequence in ("in", "story", "dialog", "long"):
        logits = model.run(wanted[f"{sequence}.ids"]).logits[0]
        close(logits, wanted[f"{sequence}.logits"], 1e-4)
    if "in.rwkv_cpp_expected_last" in wanted:
        last = model.run(wanted["in.ids"]).logits[0, -1]
        # the sixth version's stored logits come from weights quantised to five bits
        close(last, wanted["in.rwkv_cpp_expected_last"], 0.1 if "q5_1" in name else 5e-5)


# -- bad input ---------------------------------------------------------------------------------------


def changed(version: str, folder: Path, config: dict[str, Any], drop: str = "", add: Any = None) -> Path:
    """A copy of a checkpoint with another config, without some tensors, with others."""
    shutil.copytree(DATA / f"{version}-seed0", folder, dirs_exist_ok=True)
    old = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(old | config))
    tensors = load_file(folder / "model.safetensors")
    kept = {name: t.clone() for name, t in tensors.items() if not drop or drop not in name}
    save_file(kept | ({} if add is None else add(tensors)), folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("version", "config", "said"),
    [
        ("rwkv6", {"model_type": "rwkv5"}, "is RWKV-5.2, the tensors are RWKV-6"),
        ("rwkv4", {"model_type": "rwkv7", "norm_eps": 1e-5}, "is RWKV-7, the tensors are RWKV-4"),
        ("rwkv7", {"value_dim": [256, 256, 256]}, "'value_dim' is"),
        ("rwkv7", {"attn": {"layers": [1]}}, "'attn' is"),
        ("rwkv5", {"attention_hidden_size": 128}, "'attention_hidden_size' is 128"),
    ],
)
def test_contradictions_are_refused(version: str, config: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=said):
        mi.load(str(changed(version, tmp_path, config)))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("attention.ln_x.weight", "attention.time_first"), r"RWKV-5\.0 or 5\.1\. They are not computed"),
        (
            ("attn.x_proj.0.weight", "attn.r_proj.linear.weight"),
            "in the layout of flash-linear-attention. They are not",
        ),
        (("attention.query.weight",), "of no version that is known. Is this a checkpoint of another library"),
    ],
)
def test_versions_that_are_not_computed_are_named(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((DATA / "rwkv6-seed0" / "config.json").read_text())
    save_file({f"rwkv.blocks.0.{name}": torch.ones(2) for name in names}, tmp_path / "model.safetensors")
    with pytest.raises(BadConfig, match=said):
        mi.load(str(tmp_path))


def test_missing_low_rank_maps_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingTensors, match=r"layers\.1\.attn\.a_lora"):
        mi.load(str(changed("rwkv7", tmp_path, {}, drop="layers.1.attn.a_lora.lora.0")))


def test_a_width_that_the_tensors_do_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TensorMismatch, match="do not belong together"):
        mi.load(str(changed("rwkv5", tmp_path, {"hidden_size": 128, "attention_hidden_size": 128})))


def test_old_checkpoints_stack_the_mixes(tmp_path: Path) -> None:
    def stacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        heads = [f"model.layers.{layer}.attn." for layer in range(3)]
        return {f"{h}x_x": torch.stack([tensors[f"{h}x_{c}"].flatten() for c in "rwkvag"]) for h in heads}

    old = mi.load(str(changed("rwkv7", tmp_path, {}, drop=".attn.x_", add=stacked)))
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    assert torch.equal(old.run(ids).logits, mi.load(str(DATA / "rwkv7-seed0")).run(ids).logits)


def test_the_state_of_the_fourth_version_takes_no_arithmetic() -> None:
    model = mi.load(str(DATA / "rwkv4-seed0"))
    with pytest.raises(ReadOnlyPoint, match="sums and multiples of them are no state"):
        model.run([[1, 2, 3]], mi.intervene(f"blocks.*.{STATE}", mi.Zero().at(pos=1)))
