import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LAYOUTS, close, laid_out, small

import mi_core as mi
from mi_analyses import AttentionSteering, attention_steering
from mi_core.cli.main import main
from mi_core.errors import InputError, UnsupportedAnalysis, ValueMismatch

MODEL = small()
PATTERN = "blocks.{}.attn.hook_pattern"
ROWS = st.lists(st.lists(st.integers(0, 60), min_size=2, max_size=4), min_size=1, max_size=2)
METRIC = mi.logit_diff(3, 5)


def by_hand(row, layer, head, edit):
    """The share of the last query's attention on key 0 and the metric, in a run of one row with its pattern edited."""
    point = PATTERN.format(layer)
    spec = mi.capture(point)
    if edit is not None:
        spec = mi.intervene(point, mi.Apply(lambda pattern: edited(pattern, head, edit))) + spec
    run = MODEL.run(row, spec)
    logits = run.last_logits[0]
    return float(run[point][0, head, -1, 0]), float(logits[3] - logits[5])


def edited(pattern, head, edit):
    row = pattern[:, head, -1]
    old = row[:, 0].clone()
    new = edit(old)
    row *= ((1 - new) / (1 - old))[:, None]
    row[:, 0] = new
    return pattern


@settings(max_examples=6)
@given(ROWS, LAYOUTS, st.integers(0, 99), st.integers(0, 2), st.integers(0, 3))
def test_every_dose_is_a_run_whose_pattern_was_edited_by_hand(rows, layout, seed, layer, head):
    ids, mask = laid_out(rows, layout, seed)
    where = {"key": 0, "layers": [layer], "heads": head, "attention_mask": mask}
    scaled = attention_steering(MODEL, ids, METRIC, scales=[0.5, 3.0], **where)
    set_ = attention_steering(MODEL, ids, METRIC, values=[0.0, 0.9], **where)
    ways = [(scaled, c, lambda old, c=c: c * old / (c * old + 1 - old)) for c in (0.5, 3.0)]
    ways += [(set_, v, lambda old, v=v: torch.full_like(old, v)) for v in (0.0, 0.9)]
    for result, dose, edit in ways:
        for number, row in enumerate(rows):
            share, metric = by_hand(row, layer, head, edit)
            at = {result.how: dose, "batch": number}
            assert result.share.sel(**at).item() == pytest.approx(share, abs=1e-5)
            assert result.response.sel(**at).item() == pytest.approx(metric, abs=1e-4)
    for number, row in enumerate(rows):
        share, metric = by_hand(row, layer, head, None)
        assert scaled.share_before.values[number].item() == pytest.approx(share, abs=1e-5)
        assert scaled.baseline.values[number].item() == pytest.approx(metric, abs=1e-4)


def test_the_share_is_that_of_all_queries_and_heads_together():
    result = attention_steering(MODEL, [1, 2, 3], METRIC, key=[0, 1], query=None, layers=[1], scales=[1.0])
    pattern = MODEL.run([1, 2, 3], mi.capture(PATTERN.format(1)))[PATTERN.format(1)]
    close(result.share.values[0], (pattern[..., :2].sum() / pattern.sum())[None])
    close(result.share_before.values, result.share.values[0])


@pytest.mark.parametrize("ways", [{"scales": [0.0, 1.0, 30.0]}, {"values": [0.0, 1.0]}])
def test_the_dose_that_gives_a_share_or_a_metric_is_measured_there(ways):
    rows = [[1, 2, 3], [4, 5, 6]]
    plain = attention_steering(MODEL, rows, METRIC, key=0, layers=[1, 2], **ways)
    result = attention_steering(MODEL, rows, METRIC, key=0, layers=[1, 2], share=0.6, **ways)
    again = attention_steering(MODEL, rows, METRIC, key=0, layers=[1, 2], **{result.how + "s": [result.found_dose]})
    assert float(again.share.values.mean()) == pytest.approx(0.6, abs=1e-3)
    assert float(again.share.values.mean()) == pytest.approx(result.found, abs=1e-6)
    target = float(plain.response.values.mean(1)[[0, -1]].mean())
    result = attention_steering(MODEL, rows, METRIC, key=0, layers=[1, 2], target=target, **ways)
    again = attention_steering(MODEL, rows, METRIC, key=0, layers=[1, 2], **{result.how + "s": [result.found_dose]})
    assert float(again.response.values.mean()) == pytest.approx(target, abs=2e-3)


def test_metrics_may_read_every_position_and_other_points():
    mean = mi.metric(lambda logits: logits[:, :, 3].mean(1), pos="all")
    result = attention_steering(MODEL, [1, 2, 3], mean, key=0, scales=[2.0])
    assert result.baseline.values.item() == pytest.approx(float(MODEL.run([1, 2, 3]).logits[0, :, 3].mean()), abs=1e-5)
    point = "blocks.2.hook_mlp_out"
    read = mi.metric(lambda _, held: held[point].sum((1, 2)), reads=[point])
    result = attention_steering(MODEL, [1, 2, 3], read, key=0, scales=[2.0])
    wanted = float(MODEL.run([1, 2, 3], mi.capture(point))[point].sum())
    assert result.baseline.values.item() == pytest.approx(wanted, abs=1e-4)
    assert attention_steering(MODEL, [1, 2], lambda logits: logits[:, 0], key=0, scales=[1.0]).response.shape == (1, 1)


def test_what_cannot_be_steered_is_refused(monkeypatch):
    for wrong in ({"scales": [1], "values": [1]}, {"scales": []}, {"share": 0.5, "target": 1.0}):
        with pytest.raises(InputError):
            attention_steering(MODEL, [1, 2], METRIC, key=0, **wrong)
    with pytest.raises(ValueMismatch, match="row 0: the queries give no attention"):
        attention_steering(MODEL, [1, 2, 3], METRIC, key=2, query=0)
    with pytest.raises(ValueMismatch, match="set less"):
        attention_steering(MODEL, [1, 2, 3], METRIC, key=[0, 1], values=[0.7])
    with pytest.raises(ValueMismatch, match=r"no dose between 0\.5 and 1"):
        attention_steering(MODEL, [1, 2, 3], METRIC, key=0, scales=[0.5, 1], share=0.999)
    monkeypatch.setattr(MODEL.backend, "sites", list)
    with pytest.raises(UnsupportedAnalysis, match="attention_steering"):
        attention_steering(MODEL, [1, 2], METRIC, key=0)


def test_json_gives_back_an_equal_result_and_the_page_shows_it(tmp_path):
    result = attention_steering(MODEL, [[1, 2], [3, 4]], METRIC, key=0, share=0.5)
    assert AttentionSteering.from_json(result.to_json()) == result
    page = result.to_html(tmp_path / "steer.html")
    assert "share of attention, mean over prompts" in page


def test_the_command_makes_tiny_world_look_at_the_country_half_as_much(capsys, tmp_path):
    data = tmp_path / "steer.json"
    text = ["steer-attention", "tiny-world", "The capital of France is", "--answer", " Paris", "--from", "France"]
    assert main([*text, "--layers", "1", "--share", "0.4", "--json", str(data)]) == 0
    assert "scale 0." in capsys.readouterr().out.splitlines()[-2]
    result = AttentionSteering.from_json(data)
    assert result.found == pytest.approx(0.4, abs=1e-3)
    assert result.share_before.values.item() > 0.7
    assert result.response.sel(scale=0.0).item() < 0.01 < 0.9 < result.response.sel(scale=1.0).item()
    more = ["--to", "all", "--heads", "0,3", "--values", "0,0.2", "--wrong", " Rome"]
    assert main([*text, *more]) == 0
    assert "logit difference" in capsys.readouterr().out
    assert main([*text, "--layers", "x"]) == 2
