"""Every family is the reference implementation's, to rounding, in each of its example configs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from checkpoints import behind_the_last_layer, old_spelling, reference, reference_routers, reference_run, save
from family_examples import (
    EXAMPLES,
    FAMILIES,
    LEAKING,
    MIXTURES,
    WITHOUT_ATTENTION,
    YOUNG,
    as_routed,
    attending,
    attention,
    listed_stream,
    pattern_of,
    pattern_points,
    scale_of,
)
from safetensors.torch import load_file
from torch import Tensor

import mi_core as mi
from mi_core import plugins, registry
from mi_core.config import Config

BOUND = 1e-5
COLUMNS = 12


@cache
def pair(name: str) -> tuple[Any, mi.Model, Path]:
    """The reference with random weights, the same weights loaded, and their folder."""
    theirs = reference(EXAMPLES[name], attention=attention(name))
    folder = save(theirs, Path(mkdtemp()))
    return theirs, mi.load(str(folder)), folder


def tokens(rows: int = 2, columns: int = COLUMNS) -> Tensor:
    return torch.randint(0, 61, (rows, columns), generator=torch.Generator().manual_seed(1))


seen: dict[str, float] = {}
"""The largest difference of each kind since somebody emptied this: what the registry pages say."""


def close(name: str, ours: Tensor, theirs: Tensor, what: str) -> None:
    assert ours.shape == theirs.shape, what
    difference = (ours - theirs).abs().max().item() / scale_of(name, theirs)
    seen[what] = max(difference, seen.get(what, 0.0))
    assert difference <= BOUND, f"{what}: largest difference {difference:.2e}, at most {BOUND:.0e} wanted"


def looked_into(model: mi.Model, wanted: Any) -> Iterator[tuple[int, Tensor]]:
    """The layers whose patterns the reference gives, with those."""
    patterns = getattr(wanted, "attentions", None)
    return zip(attending(model), patterns or (), strict=patterns is not None)


@pytest.mark.parametrize("name", EXAMPLES)
def test_logits_streams_and_patterns_are_the_reference_s(name: str) -> None:
    theirs, model, _ = pair(name)
    ids = tokens()
    wanted = reference_run(theirs, ids)
    run = model.run(ids, mi.capture(["blocks.*.hook_resid_*", *pattern_points(name)]))
    close(name, run.logits, wanted.logits, "logits")
    close(name, model.run(ids).logits, wanted.logits, "logits")
    close(name, model.run(ids, logits="last").logits, wanted.logits[:, -1:], "logits")
    for layer, pattern in looked_into(model, wanted):
        close(name, pattern_of(name, run, layer), pattern, "patterns")
    for layer in range(model.shape.n_layers):
        close(name, run[f"blocks.{layer}.{listed_stream(name)}"], wanted.hidden_states[layer], "streams")
    last = behind_the_last_layer(theirs, run[f"blocks.{model.shape.n_layers - 1}.hook_resid_post"])
    close(name, last, wanted.hidden_states[-1], "streams")


@pytest.mark.parametrize("name", MIXTURES)
def test_router_logits_are_the_reference_s(name: str) -> None:
    theirs, model, _ = pair(name)
    wanted = reference_routers(theirs, tokens())
    run = model.run(tokens(), mi.capture("blocks.*.mlp.hook_router_logits"))
    assert len(run) == len(wanted) > 0
    for point, logits in zip(run, wanted, strict=True):
        close(name, as_routed(name, run[point]), logits, "router logits")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_padded_batches_are_the_reference_s(name: str, side: str) -> None:
    theirs, model, _ = pair(name)
    ids, mask = tokens(), torch.ones(2, COLUMNS, dtype=torch.long)
    mask[1, slice(0, 5) if side == "left" else slice(COLUMNS - 5, COLUMNS)] = 0
    real = mask.bool()
    if side == "left" and name in LEAKING:
        right = torch.arange(COLUMNS) < mask.sum(1, keepdim=True)
        moved = torch.zeros_like(ids).masked_scatter(right, ids[real])
        wanted = reference_run(theirs, moved, right.long())
        close(name, model.run(ids, attention_mask=mask).logits[real], wanted.logits[right], "logits of padded rows")
        return
    wanted = reference_run(theirs, ids, mask)
    run = model.run(ids, mi.capture(pattern_points(name)), attention_mask=mask)
    close(name, run.logits[real], wanted.logits[real], "logits of padded rows")
    close(name, model.run(ids, attention_mask=mask).logits[real], wanted.logits[real], "logits of padded rows")
    for layer, pattern in looked_into(model, wanted):
        ours = pattern_of(name, run, layer)
        close(name, ours.movedim(1, 2)[real], pattern.movedim(1, 2)[real], "patterns of padded rows")


@pytest.mark.parametrize("name", EXAMPLES)
def test_sixteen_greedy_tokens_are_the_reference_s(name: str) -> None:
    theirs, model, _ = pair(name)
    prompt = tokens(2, 6)
    mask = torch.ones_like(prompt)
    wanted = theirs.generate(prompt, attention_mask=mask, max_new_tokens=16, do_sample=False, pad_token_id=0)
    for remembered in (True, False):
        ours = model.generate(prompt, max_new_tokens=16, stop_at_eos=False, cache=remembered)
        assert ours.tokens.tolist() == wanted.tolist()


@pytest.mark.parametrize("name", EXAMPLES)
def test_prefix_then_rest_is_the_whole(name: str) -> None:
    _, model, _ = pair(name)
    rows = [row.tolist() for row in tokens()]
    rows[1] = rows[1][:9]
    whole = model.run(rows, mi.capture(pattern_points(name)))
    prefix = model.run([row[:5] for row in rows], resumable=True)
    rest = [row[5:] for row in rows]
    memory = prefix.memory()
    for spec in (None, mi.capture("blocks.*.mixer.hook_z"), mi.capture(pattern_points(name))):
        after = model.run(rest, spec, memory=memory)
        for row, part in enumerate(rest):
            close(name, after.logits[row, : len(part)], whole.logits[row, 5 : 5 + len(part)], "logits from memory")
    one = model.run([row[5:6] for row in rows], memory=memory)
    close(name, one.logits[:, 0], whole.logits[:, 5], "logits from memory")


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_spelling_of_a_config_means_the_same(name: str) -> None:
    _, model, folder = pair(name)
    family = plugins.plugin("mi_core.families", name.rpartition("-")[0])
    saved = json.loads((folder / "config.json").read_text())

    def spec_of(config: Mapping[str, Any]) -> Any:
        return family.call("mi_family", config=Config(config), tensors=None).backend().spec

    assert spec_of(EXAMPLES[name]) == model.backend.spec
    if "rope_parameters" in saved and name.rpartition("-")[0] not in YOUNG:
        assert spec_of(old_spelling(saved)) == model.backend.spec


@pytest.mark.parametrize("name", EXAMPLES)
def test_saved_tensors_are_those_that_the_reference_wrote(name: str, tmp_path: Path) -> None:
    _, model, folder = pair(name)
    mi.save_model(model, tmp_path)
    ours, theirs = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    images = ("vision_tower.", "multi_modal_projector.", "image_newline", "model.visual.")
    wanted = {name: tensor for name, tensor in theirs.items() if not name.startswith(images)}
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_examples_reach_past_their_windows(family: str) -> None:
    specs = [pair(name)[1].backend.spec for name in EXAMPLES if name.rpartition("-")[0] == family]
    windows = {getattr(layer.mixer, "window", None) for spec in specs for layer in spec.layers} - {None}
    assert all(getattr(window, "size", window) < COLUMNS - 5 for window in windows)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_page_with_its_figures(family: str) -> None:
    page = registry.pages()[family].data
    assert page["model_type"] == family
    figures = page["verified"]["largest_difference"]
    wanted = {"logits", "streams", "logits of padded rows", "logits from memory"}
    assert wanted | ({"patterns"} if family not in WITHOUT_ATTENTION else set()) <= figures.keys()
    assert all(figure <= BOUND for figure in figures.values())
