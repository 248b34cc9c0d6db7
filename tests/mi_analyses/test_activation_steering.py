import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LAYOUTS, close, laid_out, random, small, talking

import mi_core as mi
from mi_analyses import ActivationSteering, SteeringVector, activation_steering
from mi_analyses.activation_steering import repeated, repeated_rows
from mi_core.cli.main import main
from mi_core.errors import InputError, ValueMismatch

MODEL = small()
ROWS = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=4), min_size=1, max_size=3)
METRIC = mi.logit_diff(3, 5)


def vectors(model=MODEL):
    return {
        layer: SteeringVector.given(model, random(16, seed=layer), f"blocks.{layer}.hook_resid_post")
        for layer in range(3)
    }


def measured(rows, spec):
    """The metric of each row, run alone."""
    logits = torch.stack([MODEL.run(row, spec).last_logits[0] for row in rows])
    return logits[:, 3] - logits[:, 5]


@settings(max_examples=6)
@given(ROWS, LAYOUTS, st.integers(0, 99), st.sampled_from([slice(-1, None), slice(None), 0]))
def test_every_dose_is_the_full_run_with_that_much_of_the_vector(rows, layout, seed, pos):
    ids, mask = laid_out(rows, layout, seed)
    held = vectors()
    result = activation_steering(
        MODEL, ids, held, METRIC, strengths=[-1, 0, 2.5], pos=pos, remove=True, attention_mask=mask
    )
    assert result.response.dims == ("layer", "strength", "batch")
    close(result.baseline.values, measured(rows, None), 1e-4)
    for layer, vector in held.items():
        for strength in (-1, 0, 2.5):
            spec = mi.intervene(vector.point, mi.Add(vector.vector, scale=strength).at(pos=pos))
            seen = result.response.sel(layer=layer, strength=strength).values
            close(seen, measured(rows, spec), 1e-4)
        written = ["hook_embed", "blocks.*.hook_attn_out", "blocks.*.hook_mlp_out"]
        gone = mi.intervene(written, mi.ProjectOut(vector.vector))
        close(result.removed.sel(layer=layer).values, measured(rows, gone), 1e-4)


@settings(max_examples=5)
@given(ROWS, st.booleans())
def test_texts_of_all_doses_in_one_batch_are_those_of_each_alone(rows, remove):
    model, held = talking(), vectors(talking())
    texts = ["ab"[: 1 + len(row) % 2] * len(row) for row in rows]
    result = activation_steering(
        model, texts, held, METRIC, strengths=[-3, 3], max_new_tokens=3, layer=1, remove=remove
    )
    assert result.layer == 1
    for strength, seen in zip([-3, 3], result.texts, strict=True):
        for text, written in zip(texts, seen, strict=True):
            alone = model.generate(text, held[1].steer(model, strength), max_new_tokens=3)
            assert alone.text == [written]
    assert result.texts_removed == (
        tuple(model.generate(texts, held[1].remove(model), max_new_tokens=3).text) if remove else ()
    )


def test_positions_of_each_row_go_along_with_the_rows():
    texts, spans = ["ab cd", "cd ab"], mi.Span(["ab", "cd"])
    result = activation_steering(
        talking(), texts, vectors(talking())[0], METRIC, strengths=[5, -5], pos=spans, max_new_tokens=2
    )
    spec = mi.intervene("blocks.0.hook_resid_post", mi.Add(random(16), scale=-5.0).at(pos=spans))
    assert list(result.texts[1]) == talking().generate(texts, spec, max_new_tokens=2).text
    assert repeated_rows(spans, 2).text == ("ab", "cd", "ab", "cd")
    assert repeated_rows(-1, 2) == -1
    assert torch.equal(repeated(torch.tensor([1, 2]), 2), torch.tensor([[1, 2], [1, 2]]))
    assert repeated([[1], [2]], 2) == [[1], [2], [1], [2]]


def test_the_strength_that_gives_a_target_is_measured_there():
    row, held = [1, 2, 3], vectors()
    curve = activation_steering(MODEL, row, held, METRIC, strengths=[-2, 0, 2], layer=1).response.sel(layer=1)
    target = float(0.3 * curve.values[1, 0] + 0.7 * curve.values[2, 0])
    result = activation_steering(MODEL, row, held, METRIC, strengths=[-2, 0, 2], target=target, layer=1)
    assert 0 < result.found_strength < 2
    spec = held[1].steer(MODEL, result.found_strength)
    assert float(measured([row], spec)) == pytest.approx(result.found_response, abs=1e-4)
    assert result.found_response == pytest.approx(target, abs=1e-3)
    with pytest.raises(ValueMismatch, match="no dose between -2 and 2"):
        activation_steering(MODEL, row, held, METRIC, strengths=[-2, 0, 2], target=1e6)


def test_the_layer_that_moves_most_is_told_and_lengths_are_relative():
    result = activation_steering(MODEL, [1, 2, 3], vectors(), METRIC, strengths=[-2, 2])
    means = result.response.mean("batch").values
    assert result.layer == int((means.amax(1) - means.amin(1)).argmax())
    stream = MODEL.run([1, 2, 3], mi.capture("blocks.2.hook_resid_post")).at("blocks.2.hook_resid_post", pos=-1)
    assert result.relative.sel(layer=2).item() == pytest.approx(float(random(16, seed=2).norm() / stream.norm()))


def test_what_cannot_be_steered_is_refused():
    held = vectors()
    with pytest.raises(InputError, match=r"\[0, 1, 2\]"):
        activation_steering(MODEL, [1], held, METRIC, layer=7)
    with pytest.raises(InputError, match="strengths"):
        activation_steering(MODEL, [1], held, METRIC, strengths=[])
    with pytest.raises(InputError, match="no vectors"):
        activation_steering(MODEL, [1], {}, METRIC)
    with pytest.raises(InputError, match="one for each"):
        activation_steering(MODEL, [1], {0: held[0], 1: held[0]}, METRIC)
    with pytest.raises(ValueMismatch, match="other_model"):
        activation_steering(mi.Model(MODEL.backend, name="llama", config=MODEL.config), [1], held, METRIC)


def test_json_gives_back_an_equal_result_and_the_page_shows_it(tmp_path):
    result = activation_steering(talking(), "ab", vectors(talking()), METRIC, max_new_tokens=2, remove=True)
    assert ActivationSteering.from_json(result.to_json()) == result
    page = result.to_html(tmp_path / "steer.html")
    assert f"Written at layer {result.layer}" in page
    assert "<th>removed</th>" in page
    without = activation_steering(MODEL, [1, 2], vectors(), METRIC)
    assert ActivationSteering.from_json(without.to_json()) == without
    assert "Written at" not in without.to_html(tmp_path / "without.html")


def test_the_command_turns_an_opinion_of_tiny_world_round(capsys, tmp_path):
    liked = tmp_path / "liked.txt"
    liked.write_text("The film was wonderful, so I\n\nThe trip was great, so I\n", encoding="utf-8")
    kept, data = tmp_path / "opinion.safetensors", tmp_path / "steer.json"
    prompts = ["--positive", f"@{liked}", "--negative", "The film was terrible, so I"]
    prompts += ["--negative", "The trip was awful, so I"]
    answers = ["--answer", " loved", "--wrong", " hated"]
    text = ["steer", "tiny-world", "The meal was awful, so I", *answers]
    assert main([*text, *prompts, "--new", "1", "--save", str(kept), "--json", str(data)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"-2\s+·hated", shown)
    assert re.search(r" 2\s+·loved", shown)
    result = ActivationSteering.from_json(data)
    assert result.baseline.values.item() < -5 < 5 < result.response.sel(layer=result.layer, strength=2.0).item()
    assert SteeringVector.load(kept).positive == ("The film was wonderful, so I", "The trip was great, so I")
    assert main([*text, "--vector", str(kept), "--strengths", "0,1", "--target", "0", "--remove"]) == 0
    assert f"Layer {result.layer}, strength 0.4" in capsys.readouterr().out
    assert main([*text, *prompts, "--vector", str(kept)]) == 2
    assert main(text) == 2
    assert main([*text, "--positive", "@absent", "--negative", "x"]) == 2
    assert main([*text, *prompts, "--strengths", "a"]) == 2
