"""Sweeps of probes: what is measured in each cell, on synthetic activations whose answer is known, and on models."""

import pytest
import torch
from small_models import small

import mi_core as mi
from mi_core.errors import InputError, SelectorError, SpanError, UnsupportedAnalysis
from mi_core.labelled import Labelled
from mi_probing import (
    METHODS,
    Examples,
    Logistic,
    Probing,
    Protocol,
    Ridge,
    Tasks,
    harvested_examples,
    probing,
    probing_of,
    read_examples,
)
from mi_probing.protocol import Plan
from mi_probing.scoring import calibration_error, reliability, score_interval

PROMPTS = [[(7 * row + column * column) % 60 for column in range(3 + row % 4)] for row in range(48)]
LABELS = ["even" if prompt[0] % 2 == 0 else "odd" for prompt in PROMPTS]
QUICK = Logistic(penalties=(1.0, 100.0))


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def known(seed: int = 0, examples: int = 120, groups: int = 30, d: int = 40) -> Examples:
    """Layer 0 holds nothing, layer 1 holds the label, layer 2 holds which group it is and nothing else."""
    member = torch.arange(examples) % groups
    labels = member % 2
    x = normal(seed, examples, 3, d)
    x[:, 1, 0] += 6 * labels
    x[:, 2] += 8 * normal(seed + 1, groups, d)[member]
    return Examples.of(x, labels.tolist(), groups=member.tolist(), dims=("layer",))


def test_controls_tell_labels_from_memorised_groups():
    result = probing_of(known(0, 240), probe=QUICK, protocol=Protocol(shuffles=6, code=True))
    score, control = (each.values.tolist() for each in (result.score, result.control))
    assert score[1] > 0.95
    assert score[0] < 0.75
    assert score[2] < 0.8
    # layer 2 tells groups apart, so that any labels of groups can be memorised
    assert control[2] > 0.85
    assert control[1] < 0.75
    assert result.selectivity.sel(layer=1).item() > 0.25
    assert result.shuffled.shape == (3, 6)
    assert result.p_value.sel(layer=1).item() == pytest.approx(1 / 7)
    assert result.compression.sel(layer=1).item() > 2 > 1.2 > result.compression.sel(layer=0).item()
    assert result.uniform_bits == 240


def test_results_survive_json_and_give_the_best_probe():
    result = probing_of(known(), probe=QUICK, protocol=Protocol(shuffles=2, code=True))
    assert Probing.from_json(result.to_json()) == result
    best = result.best()
    assert best.point.startswith("blocks.1.")
    assert best.direction.abs().argmax() == 0
    with pytest.raises(SelectorError, match="name layer, too"):
        result.probe()


@pytest.mark.parametrize("seed", range(4))
def test_renaming_labels_renames_classes_and_changes_no_score(seed):
    examples = known(seed, 60, 20, 6)
    x, groups = examples.x.movedim(1, 0), examples.groups.tolist()
    names = [("a", "b")[label] for label in examples.labels.tolist()]
    renamed = Examples.of(x, names, groups=groups, dims=("layer",))
    first, second = (probing_of(each, probe=QUICK, protocol=Protocol(folds=3)) for each in (examples, renamed))
    assert (first.classes, second.classes) == (("0", "1"), ("a", "b"))
    torch.testing.assert_close(first.score.values, second.score.values)
    turned = Examples.of(x, ["z" if name == "a" else "b" for name in names], groups=groups, dims=("layer",))
    kept = torch.arange(60) % 3 > 0
    one, other = (
        QUICK.fit(each.x, Tasks.of(each.labels, 2, [1.0], kept)).outputs(each.x) for each in (renamed, turned)
    )
    torch.testing.assert_close(one, -other, rtol=0, atol=1e-2)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_sweeps(name):
    examples = known(3, 60, 20, 12)
    if name == "linear":
        numbers = examples.x[1, :, 0].tolist()
        examples = Examples.of(examples.x.movedim(1, 0), numbers, groups=examples.groups.tolist(), dims=("layer",))
    result = probing_of(examples, probe=name, protocol=Protocol(folds=3))
    assert result.score.sel(layer=1).item() > (0.9)
    assert (result.weight is None) == (name == "mlp")
    assert (result.log_loss is None) == (not METHODS[name].logits)


def test_numbers_are_scored_by_the_variance_that_is_explained():
    x, noise = normal(0, 90, 2, 5), normal(1, 90)
    y = 3 * x[:, 1, 2] + 0.5 * noise
    result = probing_of(Examples.of(x, y.tolist(), dims=("layer",)), probe="ridge", protocol=Protocol(folds=3))
    assert result.score.name == "R²"
    assert result.score.sel(layer=1).item() > 0.9
    assert result.score.sel(layer=0).item() < 0.2
    low, high = result.interval.sel(layer=1).values.tolist()
    assert low < result.score.sel(layer=1).item() < high
    with pytest.raises(InputError, match="numbers, which a logistic probe does not take"):
        probing_of(Examples.of(x, y.tolist(), dims=("layer",)))


def test_penalties_are_those_with_the_least_loss_on_folds():
    examples = known(2)
    protocol = Protocol(folds=4, control=False)
    result = probing_of(examples, probe=QUICK, protocol=protocol)
    plan = Plan.of(examples, QUICK, protocol)
    for cell in range(3):
        costs = []
        for penalty in QUICK.penalties:
            alone = Logistic(penalties=(penalty,))
            losses = []
            for fold in range(4):
                kept = (plan.folds >= 0) & (plan.folds != fold)
                fitted = alone.fit(examples.x[cell : cell + 1], Tasks.of(examples.labels, 2, [penalty], kept))
                out = plan.folds == fold
                sign = 2 * examples.labels[out] - 1
                said = fitted.outputs(examples.x[cell : cell + 1])[0, 0, out, 0]
                losses.append(torch.nn.functional.softplus(-sign * said).mean())
            costs.append(float(torch.stack(losses).mean()))
        assert result.penalty.values[cell] == QUICK.penalties[costs.index(min(costs))]


def test_penalties_can_be_chosen_on_a_validation_part():
    result = probing_of(known(), probe=QUICK, protocol=Protocol((0.5, 0.25, 0.25), folds=0))
    assert min(result.examples) > 20
    with pytest.raises(InputError, match="folds=0 chooses penalties on the validation part"):
        probing_of(known(), probe=QUICK, protocol=Protocol(folds=0))


def test_lots_of_cells_change_nothing(monkeypatch):
    whole = probing_of(known(), probe=QUICK)
    monkeypatch.setattr("mi_probing.measuring.LOT", 1)
    apart = probing_of(known(), probe=QUICK)
    torch.testing.assert_close(apart.weight.values, whole.weight.values, rtol=0, atol=2e-3)
    assert torch.equal(apart.score.values, whole.score.values)


def test_balance_gives_a_rare_class_its_weight():
    labels = ["rare" if row % 8 == 0 else "common" for row in range(160)]
    x = normal(4, 160, 1, 4)
    x[:, 0, 0] += torch.tensor([1.5 if label == "rare" else 0.0 for label in labels])
    examples = Examples.of(x, labels, dims=("layer",))
    said = {}
    for balanced in (False, True):
        probe = probing_of(examples, probe=QUICK, protocol=Protocol(balanced=balanced)).probe()
        said[balanced] = int((probe.predict(x[:, 0]) == 1).sum())
    assert said[True] > 2 * said[False]


def test_intervals_draw_groups_and_calibration_compares_confidence():
    gained, ones = torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.ones(4)
    apart = score_interval(gained, ones, torch.arange(4))
    assert apart[:, 0].tolist() == [0.0, 1.0]
    assert score_interval(gained, ones, torch.zeros(4, dtype=torch.long)).isnan().all()
    pairs = score_interval(gained, ones, torch.tensor([0, 1, 1, 0]))
    assert pairs[:, 0].tolist() == [0.5, 0.5]
    odds = torch.tensor([[0.1, 0.9], [0.1, 0.9], [0.1, 0.9], [0.1, 0.9], [0.55, 0.45]])
    error = float(calibration_error(odds, torch.tensor([1, 1, 1, 0, 1])))
    assert error == pytest.approx((4 * 0.15 + 0.55) / 5, abs=1e-5)
    assert reliability(odds, torch.tensor([1, 1, 1, 0, 1]))[2].sum() == 5


BAD = [
    (lambda: Examples.of(torch.zeros(4, 3), ["a"] * 4), InputError, "every label is 'a'"),
    (lambda: Examples.of(torch.zeros(4, 3), ["a", "b"]), InputError, "2 labels for 4 examples"),
    (lambda: Examples.of(torch.zeros(4, 3), ["a", "b"] * 2, groups=[1]), InputError, "1 groups for 4 examples"),
    (lambda: Examples.of(torch.tensor([[1.0], [torch.nan]]), ["a", "b"]), InputError, r"hold NaN .*examples 1\)"),
    (lambda: Examples.of(torch.zeros(4, 3), ["a", "b"] * 2, dims=("layer",)), InputError, "their dims are example"),
    (lambda: Examples.of(torch.zeros(0, 3), []), InputError, "no examples"),
    (lambda: Examples.of(torch.zeros(4, 3), [1.0] * 4), InputError, "not all the same"),
    (lambda: Examples.of(Labelled(torch.zeros(4, 3), ("row", "d")), ["a"] * 4), InputError, "an axis 'example'"),
    (lambda: probing_of(known(0, 8, 4), protocol=Protocol(folds=9)), InputError, "folds=9 of"),
    (lambda: probing_of(known(), protocol=Protocol(shares=(1.0, 0.0, 0.0))), InputError, "train, validation and test"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), BAD)
def test_examples_that_cannot_be_probed_are_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()


def test_labelled_arrays_are_read_by_their_axes():
    values = normal(0, 2, 20, 3, 5)
    array = Labelled(values, ("layer", "example", "pos", "d_model"), {"layer": (4, 7), "pos": ("a", "b", "c")})
    examples = Examples.of(array, [0, 1] * 10)
    assert examples.shape == (2, 3)
    assert examples.cells == {"layer": (4, 7), "pos": ("a", "b", "c")}
    torch.testing.assert_close(examples.x.unflatten(0, (2, 3))[1, 2], values[1, :, 2])


def test_a_live_sweep_reads_what_a_run_captures():
    model = small(seed=11)
    places = {"first": 0, "end": -1}
    examples = read_examples(model, PROMPTS, LABELS, pos=places, layers=[0, 2], batch=7)
    assert examples.cells == {"layer": (0, 2), "pos": ("first", "end")}
    run = model.run(PROMPTS, mi.capture("blocks.*.hook_resid_post"), logits=None)
    for cell, (layer, pos) in enumerate([(0, 0), (0, -1), (2, 0), (2, -1)]):
        wanted = run.at(f"blocks.{layer}.hook_resid_post", pos=pos)
        torch.testing.assert_close(examples.x[cell], wanted, rtol=1e-4, atol=1e-5)
    result = probing(model, PROMPTS, LABELS, pos=places, layers=[0, 2], probe=QUICK, random_model=True)
    assert result.score.sel(layer=0, pos="first").item() > 0.5
    assert result.random_model.dims == result.score.dims
    assert len(result.provenance.prompts) == len(PROMPTS)


def test_heads_are_cells_of_their_own():
    result = probing(small(seed=11), PROMPTS, LABELS, site="attn.hook_z", layers=1, probe=Ridge(penalties=(10.0,)))
    assert result.score.dims == ("layer", "pos", "head")
    probe = result.probe(head=2)
    assert probe.selected == {"head": 2}
    assert probe.point == "blocks.1.attn.hook_z"


REFUSED = [
    ({"pos": 9}, SelectorError, "pos=9 is out of range: row 0"),
    ({"pos": [0, 5]}, SelectorError, "pos=5 is out of range"),
    ({"pos": slice(0, 2)}, SelectorError, "selects 2 positions of a prompt: take one"),
    ({"pos": None}, SelectorError, "the prompts have from 3 to 6 tokens"),
    ({"layers": [5]}, InputError, r"layers=\[5\]: 'hook_resid_post' is in the layers \[0, 1, 2\]"),
    ({"site": "hook_nothing"}, UnsupportedAnalysis, "hook_nothing"),
    ({"position": 1}, InputError, "position: what is read is said by groups, types, site, layers, pos, spec, batch"),
    ({"site": "attn.hook_pattern"}, InputError, "probes read sites of batch, position and features"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), REFUSED)
def test_what_a_model_or_a_prompt_lacks_is_said(wrong, error, message):
    with pytest.raises(error, match=message):
        probing(small(seed=11), PROMPTS, LABELS, **wrong)


def test_a_text_that_a_later_prompt_lacks_names_where_rows_are_counted_from():
    model = mi.load("tiny-world")
    prompts = ["The capital of France is"] * 3 + ["The capital of Japan is"]
    with pytest.raises(SpanError, match=r"rows counted from prompt 2: .* row 1"):
        read_examples(model, prompts, [0, 1, 0, 1], pos=mi.Span("France").last, batch=2)


def test_a_position_with_a_text_for_each_prompt_is_read_in_lots():
    model, countries = mi.load("tiny-world"), ["France", "Japan", "Egypt", "Kenya"]
    prompts = [f"The capital of {country} is" for country in countries]
    where = {"pos": mi.Span(countries).last, "layers": 1}
    whole, lots = (read_examples(model, prompts, [0, 1, 0, 1], batch=batch, **where) for batch in (4, 3))
    torch.testing.assert_close(lots.x, whole.x, rtol=1e-4, atol=1e-5)
    wanted = model.run(prompts, mi.capture("blocks.1.hook_resid_post"))["blocks.1.hook_resid_post"][:, 4]
    torch.testing.assert_close(whole.x[0], wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="3 texts of a position for 4 examples"):
        read_examples(model, prompts, [0, 1, 0, 1], pos=mi.Span(countries[:3]).last)


def test_every_position_is_read_where_prompts_have_as_many():
    prompts = [[row, 2 * row % 60, 5] for row in range(24)]
    examples = read_examples(small(seed=11), prompts, [row % 2 for row in range(24)], pos=None)
    assert examples.cells["pos"] == (0, 1, 2)


def test_a_harvest_is_probed_by_rows_and_documents(tmp_path):
    model = mi.load("tiny-world")
    words = [("good", "great"), ("bad", "awful")]
    things = ("film", "meal", "game", "party", "play", "show")
    texts = [f"The {thing} was {word}." for thing in things for pair in words for word in pair]
    harvest = mi.harvest(model, texts, "blocks.*.hook_resid_post", tmp_path / "harvest", progress=False)
    ends = torch.bincount(harvest.documents).cumsum(0)
    rows = (ends - 2).tolist()  # the adjective, before the full stop
    labels = ["bad" if "bad" in text or "awful" in text else "good" for text in texts]
    examples = harvested_examples(harvest, labels, rows=rows)
    run = model.run(texts, mi.capture("blocks.2.hook_resid_post"), logits=None)
    torch.testing.assert_close(examples.x[2], run.at("blocks.2.hook_resid_post", pos=-2), rtol=1e-4, atol=1e-4)
    result = probing_of(examples, probe=QUICK, protocol=Protocol(folds=3))
    assert result.provenance.model == "tiny-world"
    assert result.score.sel(layer=0).item() == 1
    with pytest.raises(InputError, match="2 labels for"):
        harvested_examples(harvest, ["a", "b"])
