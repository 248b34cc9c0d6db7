from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import close, random, small

import mi_core as mi
from mi_core.errors import NotSerialisable, SpecError, ValueMismatch
from mi_core.spec import HookSpec

RESID, PATTERN, SCORES = "blocks.1.hook_resid_post", "blocks.1.attn.hook_pattern", "blocks.1.attn.hook_attn_scores"
NUMBERS = st.floats(-3, 3)
TENSORS = st.builds(
    lambda seed, dtype: random(16, seed=seed).to(dtype),
    st.integers(0, 9),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
VALUES = NUMBERS | TENSORS | st.integers(-2, 2)
ANYWHERE = st.one_of(
    st.builds(mi.Replace, VALUES, st.none() | TENSORS, st.sampled_from([None, ("d_model",)])),
    st.builds(mi.Add, VALUES, NUMBERS, st.sampled_from([None, "match"])),
    st.builds(mi.Scale, VALUES),
    st.builds(mi.Zero),
    st.builds(mi.Mean, st.none(), st.sampled_from(["pos", ("batch", "pos")])),
    st.builds(mi.Noise, NUMBERS, st.integers(-(2**40), 2**40)),
    st.builds(mi.Interpolate, VALUES, NUMBERS),
    st.builds(mi.ProjectOut, TENSORS),
    st.builds(mi.ClampAlong, TENSORS, st.just(0.0), st.none() | st.just(1.0)),
    st.builds(mi.Clamp, st.just(-1), st.none() | st.just(1.5)),
    st.builds(mi.Detach),
)
SELECTORS = st.fixed_dictionaries(
    {},
    optional={
        "pos": st.one_of(st.just(-1), st.builds(slice, st.just(-2), st.none()), st.just([0]), st.just(mi.Span("a"))),
        "batch": st.sampled_from([0, [True], slice(None)]),
        "layer": st.sampled_from([1, range(3), [1, 2]]),
    },
)
EDGES = st.one_of(
    st.builds(lambda q: mi.intervene(SCORES, mi.Knockout(q, 0)), st.sampled_from([None, -1, mi.Turn(0).after])),
    st.builds(lambda s: mi.intervene(PATTERN, mi.Reweight(-1, scale=s)), st.floats(0, 3)),
)
ENTRIES = st.one_of(
    st.builds(lambda edit, at: mi.intervene(RESID, edit.at(**at)), ANYWHERE, SELECTORS),
    st.builds(lambda before, at: mi.capture([RESID, "*"], before=before).at(**at), st.booleans(), SELECTORS),
    EDGES,
)


def back(spec: HookSpec) -> HookSpec:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "spec.json"
        spec.save(path)
        return HookSpec.load(path)


@given(st.lists(ENTRIES, max_size=4))
def test_every_spec_comes_back_equal(specs: list[HookSpec]) -> None:
    spec = sum(specs, HookSpec())
    loaded = back(spec)
    assert loaded == spec
    assert repr(loaded) == repr(spec)


def test_every_kind_of_intervention_is_covered_here() -> None:
    from mi_core.interventions import Intervention

    built = "Replace Add Scale Zero Mean Noise Interpolate ProjectOut ClampAlong Clamp Detach Knockout Reweight"
    ours = {name for name, kind in Intervention.kinds.items() if kind.__module__.startswith("mi_core.")}
    assert ours == {*built.split(), "Resample", "Apply"}


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda run: mi.Replace(run),
        lambda run: mi.Replace(run).at(pos=-1),
        lambda run: mi.Add(run, scale=0.5).at(pos=slice(-2, None), batch=[1, 0]),
        lambda run: mi.Interpolate(run, 0.5),
        lambda run: mi.Mean(run, over="batch").at(pos=-1),
        lambda run: mi.Mean(run, over=("batch", "pos")).at(batch=0),
        lambda run: mi.Resample(run, seed=3).at(pos=-1, batch=1),
    ],
)
def test_a_spec_that_holds_a_run_acts_the_same_when_it_comes_back(make: Any, limit: int | None) -> None:
    ids, mask = torch.tensor([[0, 1, 2], [3, 4, 5]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    source = small(seed=4).run([[7, 8], [9, 10, 11]], mi.capture("blocks.*.hook_resid_post"))
    spec = mi.intervene("blocks.{0..1}.hook_resid_post", make(source)) + mi.capture(RESID)
    loaded = back(spec)
    options: dict[str, Any] = {"attention_mask": mask, "batch_tokens": limit}
    one, other = small().run(ids, spec, **options), small().run(ids, loaded, **options)
    close(one[RESID], other[RESID])
    close(one.logits, other.logits)
    assert loaded != spec
    assert back(loaded) == loaded
    assert "recorded activation" in repr(loaded)
    with pytest.raises(ValueMismatch, match="narrow a spec before it is saved"):
        small().run(ids, loaded.entries and HookSpec(loaded.entries[:1]).at(d_model=3), **options)


@pytest.mark.parametrize("spec", [mi.intervene(RESID, mi.Apply(torch.relu))])
def test_functions_cannot_be_saved_and_nothing_is_written(spec: HookSpec, tmp_path: Path) -> None:
    with pytest.raises(NotSerialisable, match=r"Apply.*cannot be saved"):
        (mi.intervene(RESID, mi.Add(random(16))) + spec).save(tmp_path / "x.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: p.unlink(), "there is no spec at"),
        (lambda p: p.write_text("{"), "not valid JSON"),
        (lambda p: p.write_text("[]"), "its format is not"),
        (lambda p: p.write_text(json.dumps({"format": "mi-core spec 1"})), "is no saved spec: KeyError"),
        (lambda p: p.write_text(p.read_text().replace('"Add"', '"Odd"')), "intervention 'Odd' that is not known"),
        (lambda p: p.with_suffix(".safetensors").unlink(), "keep the files together|are not at"),
        (lambda p: p.with_suffix(".safetensors").write_bytes(b"xx"), "cannot be read"),
        (lambda p: p.write_text(p.read_text().replace("tensor_0", "tensor_7")), "of another spec"),
    ],
)
def test_a_damaged_spec_is_refused_with_a_sentence(spoil: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    mi.intervene(RESID, mi.Add(random(16))).save(path)
    spoil(path)
    with pytest.raises(SpecError, match=said):
        HookSpec.load(path)


def test_a_spec_is_not_saved_over_its_tensors(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"save it as \.json"):
        mi.capture(RESID).save(tmp_path / "x.safetensors")
