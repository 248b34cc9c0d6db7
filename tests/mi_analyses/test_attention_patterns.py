import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LAYOUTS, laid_out, small, talking

import mi_core as mi
from mi_analyses import AttentionPatterns, attention_patterns
from mi_core.cli.main import main
from mi_core.errors import MiError, SelectorError, SpanError, UnsupportedAnalysis

MODEL = small()
ROWS = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=5), min_size=1, max_size=3)
SUMMARIES = ("entropy", "distance", "to_first", "to_self", "to_previous")


@given(ROWS, LAYOUTS, st.integers(0, 99))
def test_every_number_is_that_of_the_row_alone(rows, layout, seed):
    ids, mask = laid_out(rows, layout, seed)
    result = attention_patterns(MODEL, ids, attention_mask=mask)
    for number, row in enumerate(rows):
        pattern = MODEL.run(row, mi.capture("*")).stack("attn.hook_pattern")[:, 0].double()  # layer head query key
        own = result.pattern.values[:, :, number]
        torch.testing.assert_close(own[..., : len(row), : len(row)].double(), pattern, atol=1e-5, rtol=1e-4)
        assert own[..., len(row) :, :].isnan().all()
        assert own[..., :, len(row) :].isnan().all()
        if len(row) == 1:
            assert all(getattr(result, name).values[:, :, number].isnan().all() for name in SUMMARIES)
            continue
        later = pattern[..., 1:, :]
        back = torch.tensor([[q - k for k in range(len(row))] for q in range(1, len(row))], dtype=torch.double)
        expected = {
            "entropy": -torch.where(later > 0, later * later.log(), 0).sum(-1).mean(-1),
            "distance": (later * back).sum(-1).mean(-1),
            "to_first": later[..., 0].mean(-1),
            "to_self": torch.stack([later[..., q - 1, q] for q in range(1, len(row))]).mean(0),
            "to_previous": torch.stack([later[..., q - 1, q - 1] for q in range(1, len(row))]).mean(0),
        }
        for name, values in expected.items():
            seen = getattr(result, name).values[:, :, number].double()
            torch.testing.assert_close(seen, values, atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


@settings(max_examples=20)
@given(ROWS, st.integers(1, 4))
def test_the_most_attended_tokens_are_listed_with_their_weights(rows, top):
    result = attention_patterns(MODEL, rows, top=top)
    pattern, weights, places = (a.values for a in (result.pattern, result.top_weight, result.top_position))
    assert weights.shape[-1] == min(top, pattern.shape[-1])
    real = places >= 0
    assert torch.equal(real, ~weights.isnan())
    taken = pattern.nan_to_num().gather(-1, places.clamp(min=0))
    assert torch.equal(taken[real], weights[real])
    assert (weights[..., :-1] >= weights[..., 1:])[real[..., 1:]].all()
    assert torch.equal(weights[..., 0].nan_to_num(), pattern.nan_to_num().amax(-1))


def test_selected_layers_and_heads_keep_their_numbers():
    whole = attention_patterns(MODEL, [1, 2, 3])
    part = attention_patterns(MODEL, [1, 2, 3], layer=[0, 2], head=-1)
    assert part.pattern.coords["layer"] == (0, 2)
    assert part.pattern.coords["head"] == (3,)
    torch.testing.assert_close(part.entropy.sel(layer=2, head=3).values, whole.entropy.sel(layer=2, head=3).values)
    assert attention_patterns(MODEL, [1, 2], head=[2, 0]).pattern.coords["head"] == (2, 0)


def test_interventions_are_seen():
    spec = mi.intervene("blocks.1.attn.hook_attn_scores", mi.Knockout(key=0).at(head=2))
    result = attention_patterns(MODEL, [1, 2, 3], spec=spec)
    assert (result.to_first.sel(layer=1, head=2).values == 0).all()
    assert (result.to_first.sel(layer=1, head=1).values > 0).all()


def test_what_cannot_be_read_is_refused(monkeypatch):
    with pytest.raises(SelectorError, match="top=0"):
        attention_patterns(MODEL, [1, 2], top=0)
    with pytest.raises(MiError, match="7"):
        attention_patterns(MODEL, [1, 2], head=7)
    monkeypatch.setattr(MODEL.backend, "sites", list)
    with pytest.raises(UnsupportedAnalysis, match="attention_patterns"):
        attention_patterns(MODEL, [1, 2])


def test_json_gives_back_an_equal_result_and_the_page_draws_every_head(tmp_path):
    result = attention_patterns(talking(), ["</script><img src=x>", "The capital of France"])
    assert AttentionPatterns.from_json(result.to_json()) == result
    page = result.to_html(tmp_path / "heads.html")
    assert page.count("<canvas") == 2 * 3 * 4
    assert page.count("<script") == page.count("</script>") == 3
    assert "<img" not in page
    assert not re.search(r"https?:|<link|@import|url\(", page)


def test_the_command_shows_summaries_or_one_pattern(capsys, tmp_path):
    html = tmp_path / "heads.html"
    assert main(["attention", "tiny-world", "The capital of France is", "--html", str(html)]) == 0
    assert "attention to the token before" in capsys.readouterr().out
    assert html.exists()
    assert main(["attention", "tiny-world", "The capital of France is", "--layer", "1", "--head", "3"]) == 0
    assert "layer 1, head 3" in capsys.readouterr().out
    assert main(["attention", "tiny-world", "The capital of France is", "--head", "9"]) == 2


def test_attention_to_spans_is_the_sum_over_their_tokens(capsys):
    model = mi.load("tiny-world")
    prompts = ["The capital of France is", "I think the capital of Japan is"]
    spans = {"relation": "capital of", "subject": mi.Span(["France", "Japan"])}
    result = attention_patterns(model, prompts, spans=spans)
    assert result.to_spans.coords["span"] == ("relation", "relation_final", "subject_final", "other")
    for row, tokens in enumerate(result.provenance.tokens):
        end, subject = len(tokens), tokens.index((" France", " Japan")[row])
        part = result.pattern.at_place("batch", row).values[..., :end, :end]
        there = result.to_spans.at_place("batch", row)
        torch.testing.assert_close(there.sel(span="subject_final").values[..., :end], part[..., subject])
        torch.testing.assert_close(there.sel(span="relation").values[..., :end], part[..., subject - 2])
        torch.testing.assert_close(there.values[..., :end, :].sum(-1), part.sum(-1))
        assert bool(there.values[..., end:, :].isnan().all())
    assert AttentionPatterns.from_json(result.to_json()) == result
    assert main(["attention", "tiny-world", prompts[0], "--span", "subject=France"]) == 0
    assert "attention of the last token to subject_final" in capsys.readouterr().out
    assert main(["attention", "tiny-world", prompts[0], "--span", "France"]) == 2
    with pytest.raises(SpanError, match="not in row 1"):
        attention_patterns(model, prompts, spans={"subject": "France"})
