"""A probe as a value: its direction and gap, edits along it, and its file; and the causal check."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import small

import mi_core as mi
from mi_core.cli.main import main
from mi_core.errors import InputError, ValueMismatch
from mi_probing import (
    CausalCheck,
    Examples,
    Logistic,
    MassMean,
    Probe,
    Probing,
    Protocol,
    causal_check,
    probing,
    probing_of,
)

THINGS = ("film", "meal", "game", "party", "play", "show", "dance", "trip")
GOOD, BAD = ("wonderful", "great", "lovely", "superb"), ("terrible", "awful", "dull", "ugly")
ROWS = [(thing, word) for thing in THINGS for word in GOOD + BAD]
PROMPTS = [f"The {thing} was {word}, so I" for thing, word in ROWS]
LABELS = ["good" if word in GOOD else "bad" for _, word in ROWS]
QUICK = Logistic(penalties=(1.0,))


@pytest.fixture(scope="module")
def model() -> mi.Model:
    return mi.load("tiny-world")


@pytest.fixture(scope="module")
def probe(model: mi.Model) -> Probe:
    groups = [thing for thing, _ in ROWS]
    return probing(model, PROMPTS, LABELS, groups=groups, layers=2, probe=QUICK).probe()


def values(seed: int, classes: int = 2) -> tuple[torch.Tensor, list[int]]:
    draw = torch.Generator().manual_seed(seed)
    labels = [row % classes for row in range(60)]
    x = torch.randn(60, 5, generator=draw) * torch.tensor([1.0, 30.0, 0.1, 2.0, 5.0]) + 4
    return x + 0.5 * torch.randn(classes, 5, generator=draw)[labels], labels


@given(st.integers(0, 1000))
def test_the_direction_is_in_units_of_the_activation(seed):
    x, labels = values(seed)
    probe = probing_of(Examples.of(x, labels), probe=QUICK, protocol=Protocol(control=False)).probe()
    assert float(probe.direction.norm()) == pytest.approx(1, abs=1e-5)
    dose = probe.outputs(x + probe.gap * probe.direction) - probe.outputs(x)
    torch.testing.assert_close(dose[:, 0], (probe.gap * probe.weight.norm()).expand(60), rtol=1e-3, atol=1e-3)
    first, second = probe.coefficients()
    assert second - first == pytest.approx(probe.gap, abs=1e-3)
    assert bool(((probe.outputs(x)[:, 0] > 0).long() == probe.predict(x)).all())
    torch.testing.assert_close(probe.probabilities(x).sum(-1), torch.ones(60))


def test_the_gap_of_a_difference_of_means_is_its_length():
    x, labels = values(1)
    result = probing_of(Examples.of(x, labels), probe=MassMean(), protocol=Protocol(control=False))
    probe = result.probe()
    assert probe.gap == pytest.approx(float(probe.weight.norm()), rel=1e-4)
    assert result.best() == probe
    result.show()
    assert "<svg" in result.to_html()
    assert probe.gap == pytest.approx(float((probe.class_means[1] - probe.class_means[0]).norm()), rel=1e-4)


def test_of_several_classes_two_are_taken():
    x, labels = values(2, 3)
    probe = probing_of(Examples.of(x, labels), probe=QUICK, protocol=Protocol(control=False)).probe()
    with pytest.raises(InputError, match=r"take probe.of\('2'\)"):
        _ = probe.direction
    pair, back, rest = probe.of("2", "0"), probe.of("0", "2"), probe.of("1")
    torch.testing.assert_close(pair.direction, -back.direction)
    assert pair.gap == pytest.approx(back.gap)
    assert pair.classes == ("0", "2")
    outputs = probe.outputs(x)
    torch.testing.assert_close(pair.outputs(x)[:, 0], outputs[:, 2] - outputs[:, 0], rtol=1e-3, atol=1e-3)
    assert rest.classes == ("not 1", "1")
    with pytest.raises(InputError, match="the classes of"):
        probe.of("7")


def test_of_two_classes_one_can_be_turned_round(probe):
    assert probe.of("good", "bad").gap == pytest.approx(probe.gap)
    torch.testing.assert_close(probe.of("bad", "good").direction, -probe.direction)


def test_edits_move_the_activation_along_the_direction_only(model, probe):
    point, prompt = probe.point, PROMPTS[0]
    before = model.run(prompt, mi.capture(point))[point][0]
    specs = {
        "steer": probe.steer(model, 1.5),
        "remove": probe.remove(model),
        "clamp": probe.clamp(model, "bad"),
        "patch": probe.patch(model, model.run("The film was awful, so I", mi.capture(point))),
    }
    after = {name: model.run(prompt, spec + mi.capture(point))[point][0] for name, spec in specs.items()}
    for moved in after.values():
        change = moved[-1] - before[-1]
        along = (change @ probe.direction) * probe.direction
        torch.testing.assert_close(change, along, rtol=0, atol=1e-4)
    assert float((after["steer"] - before)[-1] @ probe.direction) == pytest.approx(1.5 * probe.gap, abs=1e-3)
    assert float(after["remove"][-1] @ probe.direction) == pytest.approx(0, abs=1e-3)
    assert float(after["clamp"][-1] @ probe.direction) == pytest.approx(probe.coefficients()[0], abs=1e-3)
    torch.testing.assert_close(after["steer"][:-1], before[:-1])


def test_a_head_s_probe_edits_that_head_alone():
    model = small(seed=12)
    prompts = [[(7 * row + column) % 60 for column in range(4)] for row in range(40)]
    result = probing(model, prompts, [row % 2 for row in range(40)], site="attn.hook_z", layers=1, probe=QUICK)
    probe = result.probe(head=2)
    point = "blocks.1.attn.hook_z"
    before = model.run(prompts[0], mi.capture(point))[point]
    after = model.run(prompts[0], probe.steer(model) + mi.capture(point))[point]
    changed = ((after - before).abs().amax(-1) > 1e-6)[0]
    assert changed.nonzero().tolist() == [[3, 2]]
    assert float((after - before)[0, 3, 2].norm()) == pytest.approx(abs(probe.gap), rel=1e-3)


def test_a_probe_is_refused_by_another_model(model, probe):
    other = mi.looped(model, mi.Loop(range(2, 3)))
    with pytest.raises(ValueMismatch, match="a direction of one model means nothing in another"):
        probe.steer(other)
    assert probe.steer(other, other_model=True) == probe.steer(model)
    with pytest.raises(InputError, match=r"clamp\('ugly'\): the classes of .* are bad, good"):
        probe.clamp(model, "ugly")


def test_probes_are_files(probe, tmp_path):
    path, again = tmp_path / "probe.safetensors", tmp_path / "again.safetensors"
    probe.save(path)
    loaded = Probe.load(path)
    assert loaded == probe
    assert loaded.classes == ("bad", "good")
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()
    (tmp_path / "other").write_text("no tensors", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read as a probe"):
        Probe.load(tmp_path / "other")
    with pytest.raises(InputError, match="cannot be read as a probe"):
        Probe.load(tmp_path / "nowhere")


def test_moving_along_a_probe_moves_the_answer_more_than_random_directions(model, probe):
    prompts = [f"The {thing} was awful, so I" for thing in ("concert", "story")]
    metric = mi.logit_diff(" loved", " hated")
    result = causal_check(probe, model, prompts, metric, gaps=[0, 1, 2], randoms=3)
    assert result.beyond_random
    assert result.effect.sel(direction="probe").item() > 1
    torch.testing.assert_close(result.response.sel(direction="random 2", gaps=0.0).values, result.baseline.values)
    dosed = model.run(prompts, probe.steer(model, 2.0))
    good, bad = (model.tokenizer.single(word) for word in (" loved", " hated"))
    wanted = dosed.last_logits[:, good] - dosed.last_logits[:, bad]
    torch.testing.assert_close(result.response.sel(direction="probe", gaps=2.0).values, wanted, rtol=1e-3, atol=1e-3)
    assert CausalCheck.from_json(result.to_json()) == result
    page = result.to_html()
    assert page.count("<polyline") == 4
    assert "random directions by at most" in page
    with pytest.raises(InputError, match="two or more doses"):
        causal_check(probe, model, prompts, metric, gaps=[1])


def test_the_command_prints_draws_and_keeps_the_best_probe(capsys, tmp_path):
    lines, html, data, kept = (tmp_path / name for name in ("examples.tsv", "page.html", "numbers.json", "probe"))
    rows = [f"{label}\t{thing}\t{prompt}" for (thing, _), label, prompt in zip(ROWS, LABELS, PROMPTS, strict=True)]
    lines.write_text("\n".join(rows), encoding="utf-8")
    options = ["--layers", "0,2", "--pos", "-1", "--shuffles", "2", "--code", "--folds", "3"]
    files = ["--html", str(html), "--json", str(data), "--save", str(kept)]
    assert main(["probe", "tiny-world", str(lines), *options, *files]) == 0
    printed = capsys.readouterr().out
    assert "selectivity" in printed
    assert "Best: 1.000" in printed
    result = Probing.from_json(data)
    assert result.score.coords["layer"] == (0, 2)
    assert json.loads(data.read_text(encoding="utf-8"))["result"] == "Probing"
    assert Probe.load(kept).classes == ("bad", "good")
    page = html.read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "control task" in page


@pytest.mark.parametrize("content", ["", "a\n", "a\tb\na\tb\tc\n", "a\tb\tc\td\n"])
def test_the_command_says_how_lines_look(content, tmp_path, capsys):
    path = tmp_path / "examples.tsv"
    path.write_text(content, encoding="utf-8")
    assert main(["probe", "tiny-world", str(path)]) == 2
    assert "LABEL<tab>PROMPT" in capsys.readouterr().err
