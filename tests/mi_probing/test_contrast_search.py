"""Contrast-consistent search over cells: what it judges, the probe that it gives, and the command."""

import pytest
import torch

import mi_core as mi
from mi_core.cli.main import main
from mi_core.errors import InputError, UnsupportedAnalysis
from mi_probing import (
    ContrastConsistent,
    Examples,
    Probe,
    Probing,
    Protocol,
    Tasks,
    contrast_consistent,
    contrast_score,
    contrast_search,
    probing_of,
)
from mi_probing.contrast_search import paired

THINGS = ("film", "meal", "game", "party", "play", "show")
GOOD, BAD = ("wonderful", "great", "lovely", "superb"), ("terrible", "awful", "dull", "ugly")
ROWS = [(thing, word) for thing in THINGS for word in GOOD + BAD]
TRUTH = [word in GOOD for _, word in ROWS]
LOVED, HATED = ([f"The {thing} was {word}, so I {verb}" for thing, word in ROWS] for verb in ("loved", "hated"))
QUICK = ContrastConsistent(starts=4, steps=200)


def sides(seed: int, cells: int = 2, count: int = 80) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Statements and negations that lie along a direction of truth, each side somewhere of its own."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.arange(count) % 2
    direction = torch.randn(cells, 1, 6, generator=draw)
    noise = torch.randn(2, cells, count, 6, generator=draw)
    sign = (2.0 * truth - 1)[:, None]
    return sign * direction + 0.3 * noise[0] + 3, -sign * direction + 0.3 * noise[1] - 1, truth


@pytest.mark.parametrize("seed", range(2))
def test_pairs_are_judged_as_the_search_judges_them(seed):
    positive, negative, truth = sides(seed)
    everything = torch.ones(len(truth), dtype=torch.bool)
    found = contrast_consistent(positive, negative, starts=4, steps=200)
    both = torch.cat([positive, negative], -1)
    made = QUICK.fit(both, Tasks.of(truth, 2, (0.0,), everything))
    right = ((made.outputs(both)[:, 0, :, 0] > 0) == truth.bool()).float().mean(-1)
    torch.testing.assert_close(right, contrast_score(found, positive, negative, truth.float()))
    assert float(right.min()) > 0.9


def test_labels_only_turn_the_direction_round():
    positive, negative, truth = sides(5)
    names = ["no", "yes"]
    results = []
    for labels in (truth, 1 - truth):
        one, other = (
            Examples.of(side.movedim(0, 1), [names[label] for label in labels.tolist()], dims=("layer",))
            for side in (positive, negative)
        )
        results.append(probing_of(paired(one, other), probe=QUICK, protocol=Protocol(control=False)))
    torch.testing.assert_close(results[0].score.values, results[1].score.values)
    torch.testing.assert_close(results[0].weight.values, -results[1].weight.values)


def test_a_model_tells_what_it_says_from_what_it_does_not():
    model = mi.load("tiny-world")
    groups = [thing for thing, _ in ROWS]
    result = contrast_search(model, LOVED, HATED, TRUTH, groups=groups, layers=[0, 2], probe=QUICK)
    assert result.score.dims == ("layer", "pos")
    assert float(result.score.sel(layer=2).values.max()) > 0.9
    assert result.classes == ("False", "True")
    probe = result.probe(layer=2)
    assert probe.weight.shape == (1, model.shape.d_model)
    assert probe.gap > 0
    first, second = probe.coefficients()
    middle = torch.nn.functional.normalize(probe.direction, dim=0) * (first + second) / 2
    torch.testing.assert_close(probe.outputs(middle), torch.zeros(1), rtol=0, atol=1e-4)
    assert "contrast-consistent" in repr(probe)


def test_what_is_no_pair_is_refused():
    model = mi.load("tiny-world")
    with pytest.raises(InputError, match="3 negations for 4 examples"):
        contrast_search(model, LOVED[:4], HATED[:3], TRUTH[:4])
    with pytest.raises(UnsupportedAnalysis, match="hook_nothing"):
        contrast_search(model, LOVED, HATED, TRUTH, site="hook_nothing")
    with pytest.raises(InputError, match="a row is a statement and its negation, and either is true"):
        contrast_search(model, LOVED, HATED, [word for _, word in ROWS], groups=[thing for thing, _ in ROWS])


def test_the_command_prints_scores_and_keeps_a_probe(tmp_path, capsys):
    lines, data, kept = (tmp_path / name for name in ("pairs.tsv", "numbers.json", "probe"))
    rows = zip(ROWS, TRUTH, LOVED, HATED, strict=True)
    lines.write_text("\n".join(f"{said}\t{thing}\t{one}\t{other}" for (thing, _), said, one, other in rows))
    options = ["--layers", "2", "--starts", "3", "--steps", "200", "--json", str(data), "--save", str(kept)]
    assert main(["contrast", "tiny-world", str(lines), *options]) == 0
    assert "contrast-consistent" in capsys.readouterr().out
    assert Probing.from_json(data).score.coords["layer"] == (2,)
    assert Probe.load(kept).classes == ("False", "True")
    lines.write_text("maybe\ta\tb\n")
    assert main(["contrast", "tiny-world", str(lines)]) == 2
    assert "'maybe' says neither true nor false" in capsys.readouterr().err
    lines.write_text("yes\ta\n")
    assert main(["contrast", "tiny-world", str(lines)]) == 2
    assert "TRUTH<tab>GROUP<tab>STATEMENT<tab>NEGATION" in capsys.readouterr().err.replace("\n", "")
