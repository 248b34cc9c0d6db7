"""What features are about, against brute force over the same rows; edits of features do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import mi_core as mi
import mi_dictionaries as md
from mi_core.errors import SelectorError, SpecError, UnsupportedAnalysis, ValueMismatch
from mi_core.results import Result
from mi_dictionaries.feature_effects import takes_off_means
from mi_dictionaries.feature_tops import EDGES, FeatureTops
from mi_dictionaries.features_command import mi_command
from mi_dictionaries.splicing import POST

POINT = "blocks.1.hook_resid_post"
TEXTS = ["The capital of France is Paris.", "The capital of Italy is Rome.", "The film was good.", "Peter gave a coat."]


@pytest.fixture(scope="module")
def model() -> mi.Model:
    return mi.load("tiny-world")


@pytest.fixture(scope="module")
def sae(model: mi.Model) -> md.SparseDictionary:
    draw = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(30, 128, generator=draw), dim=-1)
    return md.SparseDictionary(reads=(POINT,), W_enc=rows.T, W_dec=rows, b_enc=torch.full((30,), -0.3))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.floats(-4, 4, width=32)), min_size=1, max_size=60),
    st.integers(1, 4),
)
def test_tops_are_what_sorting_everything_gives(pairs: list[tuple[int, int, float]], examples: int) -> None:
    tops = FeatureTops.empty(5, examples)
    seen: dict[int, list[tuple[float, int]]] = {feature: [] for feature in range(5)}
    for part, begin in enumerate(range(0, len(pairs), 7)):
        token, index, values = (list(column) for column in zip(*pairs[begin : begin + 7], strict=True))
        tops.add(torch.tensor(token), torch.tensor(index), torch.tensor(values), first=10 * part)
        for row, feature, value in zip(token, index, values, strict=True):
            if value:
                seen[feature].append((value, 10 * part + row))
    for feature, found in seen.items():
        best = sorted((abs(value) for value, _ in found), reverse=True)[:examples]
        kept = tops.values[feature][: len(best)].tolist()
        assert [abs(value) for value in kept] == pytest.approx(best)
        assert all((value, row) in found for value, row in zip(kept, tops.rows[feature].tolist(), strict=False))
        assert bool((tops.rows[feature][len(best) :] == -1).all())
        assert int(tops.active[feature]) == len(found)
        assert float(tops.total[feature]) == pytest.approx(sum(value for value, _ in found), abs=1e-5)
        sizes = torch.tensor([abs(value) for value, _ in found]).log2()
        assert tops.histogram[feature].tolist() == torch.bincount(torch.bucketize(sizes, EDGES), minlength=42).tolist()


def test_a_report_is_what_all_activations_say(model: mi.Model, sae: md.SparseDictionary) -> None:
    report = md.feature_report(model, sae, TEXTS, examples=3)
    run = model.run(TEXTS, mi.capture(POINT))
    acts = sae.encode(run[POINT][run.mask]).dense()
    assert report.rows == len(acts)
    assert report.dead == int((acts == 0).all(0).sum())
    for at, feature in enumerate(report.features):
        assert float(report.density.values[at]) == pytest.approx(float((acts[:, feature] != 0).float().mean()))
        assert float(report.largest.values[at]) == pytest.approx(float(acts[:, feature].max()), rel=1e-4)
        best = acts[:, feature].topk(min(3, len(report.examples[at]))).values.tolist()
        shown = [activations[own] for _, activations, own, _ in report.examples[at]]
        assert shown == pytest.approx(best, rel=1e-4)
    tokens, activations, _, document = report.examples[0][0]
    own = acts[run.mask[:document].sum() :, report.features[0]]
    assert "".join(tokens).replace("<bos>", "") in TEXTS[document]
    assert list(activations) == pytest.approx(own[: len(tokens)].tolist(), rel=1e-3, abs=1e-5)
    assert Result.from_json(report.to_json()) == report


def test_rows_that_were_not_kept_are_shown_without_a_number(
    model: mi.Model, sae: md.SparseDictionary, tmp_path: Path
) -> None:
    harvest = mi.harvest(model, TEXTS, POINT, tmp_path / "last", pos=-1, progress=False)
    report = md.feature_report(model, sae, harvest, examples=1)
    _, activations, own, _ = report.examples[0][0]
    assert activations[own] is not None
    assert set(activations[:own]) <= {None}


def test_effects_are_what_one_more_of_a_feature_adds(model: mi.Model, sae: md.SparseDictionary) -> None:
    chosen = torch.tensor([3, 7])
    effects = md.logit_effects(model, sae, chosen)
    stream = model.run(TEXTS[0], mi.capture("blocks.3.hook_resid_post")).at("blocks.3.hook_resid_post", pos=-1)
    scale = model.run(TEXTS[0], mi.capture("ln_final.hook_scale")).at("ln_final.hook_scale", pos=-1)
    gain = model.weights["ln_final.w"]
    for row, feature in zip(effects, chosen.tolist(), strict=True):
        moved = (stream + sae.decoder_rows(torch.tensor([feature]))) / scale * gain  # the norm's scale is held
        still = stream / scale * gain
        change = ((moved - still) @ model.weights["unembed.W_U"])[0] * scale[0]
        torch.testing.assert_close(row, change - change.mean(), rtol=1e-3, atol=1e-4)


def test_means_are_taken_off_where_the_last_norm_does(sae: md.SparseDictionary) -> None:
    gpt2 = mi.build("gpt2", n_layers=2, d_model=128, n_heads=4, d_vocab=50, n_ctx=16, trainable=False)
    assert takes_off_means(gpt2)
    assert not takes_off_means(mi.load("tiny-world"))
    before = md.logit_effects(gpt2, sae, torch.tensor([1]))
    shifted = md.SparseDictionary(
        reads=(POINT,), W_enc=torch.zeros(128, 30), W_dec=sae.decoder_rows(torch.arange(30)) + 1.0
    )
    torch.testing.assert_close(md.logit_effects(gpt2, shifted, torch.tensor([1])), before, rtol=1e-4, atol=1e-5)


def test_neighbours_and_projections_are_those_of_all_rows(model: mi.Model, sae: md.SparseDictionary) -> None:
    rows = sae.decoder_rows(torch.arange(30))
    index, cosine = md.neighbours(sae, torch.tensor([4]), 5)
    similar = rows @ rows[4]
    similar[4] = -2
    assert index[0].tolist() == similar.topk(5).indices.tolist()
    torch.testing.assert_close(cosine[0], similar.topk(5).values)
    towards = model.weights["unembed.W_U"][:, model.tokenizer.single(" Paris")]  # type: ignore[union-attr]
    found = md.projections(sae, towards, k=4)
    best = (rows @ (towards / towards.norm())).topk(4)
    torch.testing.assert_close(found.values, best.values)
    assert found.coords["feature"] == tuple(f"{POINT}#{feature}" for feature in best.indices.tolist())
    assert len(md.neighbours(sae, torch.tensor([4]), 99)[0][0]) == 29
    with pytest.raises(ValueMismatch, match="points nowhere"):
        md.projections(sae, torch.zeros(128))
    with pytest.raises(ValueMismatch, match="direction has 3"):
        md.projections(sae, torch.ones(3))


def test_each_write_of_a_layer_has_a_cosine_of_its_own() -> None:
    rows = torch.randn(6, 2, 8, generator=torch.Generator().manual_seed(3))
    points = ("blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out")
    layer = md.SparseDictionary(
        reads=("blocks.0.mlp.hook_in",), writes=points, W_enc=torch.ones(8, 6), W_dec=rows, b_enc=torch.zeros(6)
    )
    found = md.projections(layer, rows[4, 1], k=1, cosine=True)
    assert float(found.values[0]) == pytest.approx(1.0, abs=1e-5)
    assert found.coords["feature"] == ("blocks.0.mlp.hook_in#4 > blocks.1.hook_mlp_out",)


def test_the_three_edits_differ_as_they_say(model: mi.Model, sae: md.SparseDictionary) -> None:
    read = mi.capture(f"{POINT}.{POST}")
    before = model.run(TEXTS, md.splice(sae) + read)[f"{POINT}.{POST}"][..., 5]
    real = model.run(TEXTS).mask

    def after(*options: object) -> torch.Tensor:
        run = model.run(TEXTS, md.feature_edit(sae, 5, *options) + read)  # type: ignore[arg-type]
        return run[f"{POINT}.{POST}"][..., 5][real]

    assert not after("ablate").any()
    assert bool((after("clamp", 2.5) == 2.5).all())
    torch.testing.assert_close(after("add", -1.5), before[real] - 1.5)


def test_a_curve_is_the_runs_one_by_one(model: mi.Model, sae: md.SparseDictionary) -> None:
    metric = mi.logit(" Paris")
    curve = md.steering_curve(model, TEXTS[:2], sae, 5, metric, values=[-2, 0, 3], pos=-1)
    for value, row in zip((-2.0, 0.0, 3.0), curve.values, strict=True):
        run = model.run(TEXTS[:2], md.feature_edit(sae, 5, "add", value, pos=-1))
        torch.testing.assert_close(row, run.last_logits[:, model.tokenizer.single(" Paris")], rtol=1e-4, atol=1e-4)  # type: ignore[union-attr]
    torch.testing.assert_close(curve.values[1], curve.baseline.values, rtol=1e-4, atol=1e-4)  # type: ignore[union-attr]


def test_what_cannot_be_told_is_refused(model: mi.Model, sae: md.SparseDictionary, tmp_path: Path) -> None:
    elsewhere = mi.harvest(model, TEXTS, "blocks.0.hook_resid_post", tmp_path / "other", progress=False)
    with pytest.raises(SelectorError, match=r"dictionary reads 'blocks\.1\.hook_resid_post'"):
        md.feature_report(model, sae, elsewhere)
    with pytest.raises(SelectorError, match="has 30, from 0"):
        md.feature_report(model, sae, TEXTS, features=[30])
    with pytest.raises(SpecError, match="ablate takes no value"):
        md.feature_edit(sae, 0, "ablate", 1.0)
    with pytest.raises(SelectorError, match="names none"):
        md.feature_report(model, sae, TEXTS[0], features=[])
    with pytest.raises(SpecError, match="no curve"):
        md.steering_curve(model, TEXTS, sae, 0, mi.logit(" Paris"), values=[1], how="ablate")
    with pytest.raises(SpecError, match="clamp needs a value"):
        md.feature_edit(sae, 0, "clamp")
    with pytest.raises(SpecError, match="has 30, from 0"):
        md.feature_edit(sae, 99, "ablate")
    narrow = md.SparseDictionary(
        reads=(POINT,), writes=("blocks.1.mlp.hook_post",), W_enc=torch.ones(128, 2), W_dec=torch.ones(2, 7)
    )
    with pytest.raises(UnsupportedAnalysis, match="not added to the stream"):
        md.logit_effects(model, narrow, torch.tensor([0]))


def test_the_command_writes_an_index_and_a_page_for_each(tmp_path: Path) -> None:
    (tmp_path / "world.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    asked = ["tiny-world/sae/blocks.1.hook_resid_post", "tiny-world", str(tmp_path / "world.txt")]
    out = tmp_path / "pages"
    app = typer.Typer()
    app.command()(mi_command())
    done = CliRunner().invoke(app, [*asked, "-f", "2", "-f", "106", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == ["106.html", "2.html", "index.html"]
    page = (out / "106.html").read_text(encoding="utf-8")
    assert "Feature 106" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert 'href="106.html"' in (out / "index.html").read_text(encoding="utf-8")
