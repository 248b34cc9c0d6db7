import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import LAYOUTS, laid_out, small, talking

import mi_core as mi
from mi_analyses import AttentionKnockout, attention_knockout
from mi_core.cli.main import main
from mi_core.errors import SelectorError, SpanError, UnsupportedAnalysis, ValueMismatch

MODEL = small()
SCORES = "attn.hook_attn_scores"
ROWS = st.lists(st.lists(st.integers(0, 60), min_size=2, max_size=4), min_size=1, max_size=2)


def next_tokens(rows, spec=None):
    """The next-token distribution behind each row, run alone."""
    return torch.stack([MODEL.run(row, spec).last_logits[0].double().softmax(-1) for row in rows])


@settings(max_examples=10)
@given(ROWS, st.integers(0, 2), st.sampled_from([None, 0, [1, 3]]), st.integers(0, 60))
def test_every_cell_is_the_full_run_with_that_cut(rows, layer, heads, answer):
    result = attention_knockout(MODEL, rows, answer, heads=heads)
    whole = next_tokens(rows)
    for key in range(min(map(len, rows))):
        knockout = mi.Knockout(query=-1, key=key)
        knockout = knockout if heads is None else knockout.at(head=heads)
        cut = next_tokens(rows, mi.intervene(f"blocks.{layer}.{SCORES}", knockout))
        kl = (whole * (whole.log() - cut.log())).sum(-1)
        torch.testing.assert_close(result.kl.values[layer, key].double(), kl, atol=1e-5, rtol=1e-3)
        lost = cut[:, answer] - whole[:, answer]
        torch.testing.assert_close(result.probability.values[layer, key].double(), lost, atol=1e-5, rtol=1e-3)
        above = [(p > p[:, [answer]]).sum(-1) for p in (cut, whole)]
        assert torch.equal(result.rank.values[layer, key].long(), above[0] - above[1])


@settings(max_examples=10)
@given(ROWS, LAYOUTS, st.integers(0, 99))
def test_padding_changes_nothing(rows, layout, seed):
    ids, mask = laid_out(rows, layout, seed)
    padded = attention_knockout(MODEL, ids, 3, key=0, attention_mask=mask)
    for row, alone in enumerate(rows):
        expected = attention_knockout(MODEL, alone, 3, key=0)
        torch.testing.assert_close(
            padded.probability.values[:, row], expected.probability.values[:, 0], atol=1e-5, rtol=1e-3
        )


def test_the_answer_is_what_the_whole_model_says_unless_one_is_given():
    rows = [[1, 2, 3], [4, 5, 6]]
    best = next_tokens(rows).argmax(-1).tolist()
    result = attention_knockout(MODEL, rows, key=0)
    assert result.answer == tuple(f"<{token}>" for token in best)
    assert (result.whole_rank.values == 0).all()
    given_ = attention_knockout(MODEL, rows, [7, 8], key=0)
    assert given_.answer == ("<7>", "<8>")
    torch.testing.assert_close(
        given_.whole_probability.values.double(), next_tokens(rows)[[0, 1], [7, 8]], atol=1e-6, rtol=1e-4
    )


def test_axes_are_layers_and_keys_unless_others_are_named():
    row = [1, 2, 3]
    assert attention_knockout(MODEL, row).kl.dims == ("layer", "key_pos", "batch")
    assert attention_knockout(MODEL, row, key=0).kl.dims == ("layer", "batch")
    edges = attention_knockout(MODEL, row, query=None, each=("layer", "head", "query_pos", "key_pos"))
    assert edges.kl.shape == (3, 4, 3, 3, 1)
    assert edges.cut == "every edge"
    later = torch.ones(3, 3).triu(1).bool()
    assert (edges.kl.values[..., 0][..., later] < 1e-6).all()
    own = edges.kl.values[..., 0].amax((0, 1))
    assert (own[~later] > 1e-6).any()


def test_a_window_cuts_so_many_layers_from_its_first_on():
    result = attention_knockout(MODEL, [1, 2, 3], 5, key=0, window=2)
    spec = mi.intervene(f"blocks.*.{SCORES}", mi.Knockout(query=-1, key=0).at(layer=[1, 2]))
    lost = (next_tokens([[1, 2, 3]], spec) - next_tokens([[1, 2, 3]]))[0, 5]
    assert result.probability.sel(layer=1).item() == pytest.approx(float(lost), abs=1e-5)


def test_what_cannot_be_cut_is_refused(monkeypatch):
    with pytest.raises(SpanError, match="Spain"):
        attention_knockout(talking(), "The capital of France is", 7, key=mi.Span("Spain"))
    with pytest.raises(SelectorError):
        attention_knockout(MODEL, [1, 2], key=9)
    with pytest.raises(SelectorError, match="d_model"):
        attention_knockout(MODEL, [1, 2], each=("d_model",))
    with pytest.raises(ValueMismatch, match="61"):
        attention_knockout(MODEL, [1, 2], 61)
    monkeypatch.setattr(MODEL.backend, "sites", list)
    with pytest.raises(UnsupportedAnalysis, match="attention_knockout"):
        attention_knockout(MODEL, [1, 2])


def test_json_gives_back_an_equal_result_and_the_page_shows_it(tmp_path):
    result = attention_knockout(MODEL, [[1, 2], [3, 4]])
    assert AttentionKnockout.from_json(result.to_json()) == result
    page = result.to_html(tmp_path / "cut.html")
    assert (tmp_path / "cut.html").read_text(encoding="utf-8") == page
    assert "change of probability, mean over prompts" in page


def test_the_command_finds_the_edge_over_which_tiny_world_reads_the_country(capsys, tmp_path):
    data = tmp_path / "cut.json"
    arguments = ["knockout", "tiny-world", "The capital of France is", "--json", str(data)]
    assert main(arguments) == 0
    assert "·Paris" in capsys.readouterr().out
    result = AttentionKnockout.from_json(data)
    assert result.answer == (" Paris",)
    assert result.probability.sel(layer=1, key_pos=" France").item() < -0.9
    assert abs(result.probability.sel(layer=1, key_pos="The").item()) < 0.01
    assert main([*arguments, "--from", "France", "--to", "all", "--heads", "0,3", "--each", "layer"]) == 0
    assert "key Span('France'), head [0, 3]" in capsys.readouterr().out.replace("\n", " ")
    assert main([*arguments, "--heads", "x"]) == 2
    assert main([*arguments, "--from", "Spain"]) == 2
    assert "SpanError" in capsys.readouterr().err
