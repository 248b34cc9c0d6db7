import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_llama import tiny_llama, write_tiny_llama

import mi_analyses.readout as readout
import mi_core as mi
from mi_analyses.logit_lens import LogitLens, logit_lens
from mi_core.errors import NoTokenizer, SelectorError, TokenOutOfRange, UnknownPoint, UnsupportedAnalysis

MODEL = tiny_llama(1)
ROWS = st.lists(st.lists(st.integers(0, 319), min_size=1, max_size=6), min_size=1, max_size=3)


def distribution(logits):
    return logits.double().softmax(-1)


@given(ROWS)
def test_the_last_layer_is_what_the_model_says(rows):
    lens = logit_lens(MODEL, rows, top=3)
    run = MODEL.run(rows)
    for row, ids in enumerate(rows):
        p = distribution(run.logits[row, : len(ids)])
        seen = lens.probability.sel(point=-1).values[row, : len(ids)].double()
        torch.testing.assert_close(seen, p.topk(3).values, atol=1e-6, rtol=1e-5)
        assert torch.equal(lens.answer_id.values[row, : len(ids)], p.argmax(-1))
        assert (lens.kl.sel(point=-1).values[row, : len(ids)] == 0).all()


@given(ROWS, st.integers(0, 319))
def test_every_number_is_that_of_the_stream_through_the_unembedding(rows, token):
    lens = logit_lens(MODEL, rows, top=4, tokens=(token,))
    run = MODEL.run(rows, mi.capture("*"))
    for row, ids in enumerate(rows):
        final = distribution(run.logits[row, : len(ids)])
        for point in lens.entropy.coords["point"]:
            p = distribution(MODEL.unembed(run[point][row, : len(ids)]))
            here = {"point": point, "batch": row, "pos": slice(0, len(ids))}
            expected = {
                "entropy": -(p * p.log()).sum(-1),
                "kl": (final * (final.log() - p.log())).sum(-1),
                "answer_probability": p.gather(-1, final.argmax(-1, keepdim=True))[:, 0],
                "probability": p.topk(4).values,
                "token_probability": p[:, [token]],
            }
            for name, values in expected.items():
                seen = getattr(lens, name).sel(**here).values.double()
                torch.testing.assert_close(seen, values, atol=2e-6, rtol=2e-5, msg=lambda text, n=name: f"{n}: {text}")
            # ranks may swap where two tokens are equally likely to rounding
            below = (p > p[:, [token]] * (1 + 1e-5)).sum(-1) + 1
            above = (p >= p[:, [token]] * (1 - 1e-5)).sum(-1)
            rank = lens.token_rank.sel(token=0, **here).values
            assert ((below <= rank) & (rank <= above)).all()


@given(ROWS, st.sampled_from(["left", "right", "holes"]), st.randoms(use_true_random=False))
def test_padding_changes_nothing(rows, side, random):
    width = max(map(len, rows)) + 2
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        places = {
            "left": range(width - len(row), width),
            "right": range(len(row)),
            "holes": sorted(random.sample(range(width), len(row))),
        }[side]
        ids[number, list(places)] = torch.tensor(row)
        mask[number, list(places)] = 1
    padded = logit_lens(MODEL, ids, attention_mask=mask)
    for number, row in enumerate(rows):
        alone = logit_lens(MODEL, row)
        for name in ("entropy", "kl", "answer_probability"):
            seen = getattr(padded, name).values[:, number]
            torch.testing.assert_close(seen[:, : len(row)], getattr(alone, name).values[:, 0], atol=1e-5, rtol=1e-4)
            assert seen[:, len(row) :].isnan().all()
        assert (padded.position.values[number, len(row) :] == -1).all()
        assert (padded.top_id.values[:, number, len(row) :] == -1).all()


@given(ROWS, st.sampled_from([-1, 0, [0, -1], slice(-2, None), slice(None)]))
def test_selected_positions_are_those_of_the_whole_lens(rows, pos):
    if isinstance(pos, list):
        rows = [[5, *row] for row in rows]
    part, whole = logit_lens(MODEL, rows, pos=pos), logit_lens(MODEL, rows)
    for number, row in enumerate(rows):
        wanted = [pos] if isinstance(pos, int) else pos
        wanted = range(len(row))[wanted] if isinstance(wanted, slice) else [place % len(row) for place in wanted]
        positions = part.position.values[number]
        assert positions[positions >= 0].tolist() == list(wanted)
        for column, position in enumerate(wanted):
            seen, expected = part.entropy.values[:, number, column], whole.entropy.values[:, number, position]
            torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-4)


def test_a_position_may_be_a_text(tmp_path):
    model = mi.load(write_tiny_llama(tmp_path / "tiny"), device="cpu")
    text = "The capital of France is"
    lens = logit_lens(model, text, pos=mi.Span(" France").last, tokens=(" Paris",) if fits(model, " Paris") else (3,))
    tokens = lens.provenance.tokens[0]
    position = int(lens.position.item())
    assert " France".endswith(tokens[position].strip())
    assert lens.entropy.coords["pos"] == ((position, tokens[position]),)
    assert lens.provenance.prompts == (text,)
    assert tokens[0] == "<s>"


def fits(model, text):
    return len(model.tokenizer.encode(text, special=False).ids) == 1


def test_the_stream_is_read_at_every_point_once():
    lens = logit_lens(MODEL, [1, 2])
    sites = ["0.hook_resid_pre", *(f"{layer}.hook_resid_{part}" for layer in range(3) for part in ("mid", "post"))]
    assert lens.entropy.coords["point"] == tuple(f"blocks.{site}" for site in sites)
    only = logit_lens(MODEL, [1, 2], sites=("hook_resid_pre",))
    assert only.entropy.coords["point"] == tuple(f"blocks.{layer}.hook_resid_pre" for layer in range(3))
    assert torch.equal(only.entropy.values[1], lens.entropy.sel(point="blocks.0.hook_resid_post").values)
    assert logit_lens(MODEL, [1, 2], sites=("hook_attn_out",)).entropy.shape == (3, 1, 2)


def test_positions_carry_their_token_where_all_rows_share_it():
    assert logit_lens(MODEL, [7, 8]).entropy.coords["pos"] == ((0, "<7>"), (1, "<8>"))
    assert logit_lens(MODEL, [[7, 8], [7, 9]]).entropy.coords["pos"] == (0, 1)
    assert logit_lens(MODEL, [[7, 8], [7]], pos=-1).entropy.coords["pos"] == (-1,)


def test_the_layer_of_entry_is_the_first_in_which_a_token_is_among_the_top():
    lens = logit_lens(MODEL, [[1, 2, 3, 4]], top=2, tokens=(5, 6))
    layers = [int(re.search(r"\d+", point)[0]) for point in lens.token_rank.coords["point"]]
    for entered, rank in [(lens.token_enters, lens.token_rank), (lens.answer_enters, lens.answer_rank)]:
        flat = rank.values.flatten(1)
        for column, seen in enumerate(entered.values.flatten().tolist()):
            inside = [layer for layer, here in zip(layers, flat[:, column].tolist(), strict=True) if here <= 2]
            assert seen == (inside[0] if inside else -1)
    assert (lens.answer_enters.values >= 0).all()


def test_an_intervention_is_seen_from_its_layer_on():
    plain = logit_lens(MODEL, [1, 2, 3])
    spec = mi.intervene("blocks.1.hook_mlp_out", mi.Zero()) + mi.capture("*")
    edited = logit_lens(MODEL, [1, 2, 3], spec=spec)
    same = [torch.equal(a, b) for a, b in zip(plain.entropy.values, edited.entropy.values, strict=True)]
    assert same == [True, True, True, True, False, False, False]
    assert "Zero" in json.dumps(edited.provenance.to_data()["spec"])


def test_chunks_change_nothing_and_keep_the_vocabulary_small(monkeypatch):
    whole = logit_lens(MODEL, [[1, 2, 3, 4, 5]])
    monkeypatch.setattr(readout, "CHUNK", 2 * 320)
    largest = []
    unembed = MODEL.unembed
    monkeypatch.setattr(MODEL, "unembed", lambda resid: largest.append(len(resid)) or unembed(resid))
    parts = logit_lens(MODEL, [[1, 2, 3, 4, 5]])
    assert max(largest) == 2
    torch.testing.assert_close(parts.entropy.values, whole.entropy.values, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(parts.kl.values, whole.kl.values, atol=1e-6, rtol=1e-5)


def test_logits_of_minus_infinity_leave_finite_numbers():
    def unembed(x):
        return torch.cat([x, x.new_full((*x.shape[:-1], 1), -torch.inf)], dim=-1)

    streams = {"first": torch.randn(3, 4), "last": torch.randn(3, 4)}
    out = readout.read_out(unembed, streams, ["first", "last"], "last", 5, [4])
    assert out.kl.isfinite().all()
    assert out.entropy.isfinite().all()
    assert (out.token_rank == 5).all()


def test_a_model_that_yields_no_numbers_is_not_made_to_look_sound():
    streams = {"first": torch.full((1, 4), torch.nan), "last": torch.full((1, 4), torch.nan)}
    out = readout.read_out(lambda x: x, streams, ["first", "last"], "last", 2, [])
    assert out.kl.isnan().all()
    assert out.entropy.isnan().all()


@given(ROWS)
def test_json_gives_back_an_equal_lens(rows):
    lens = logit_lens(MODEL, rows, tokens=(3,))
    assert LogitLens.from_json(lens.to_json()) == lens


def test_what_cannot_be_read_is_refused(monkeypatch):
    with pytest.raises(SelectorError, match="top=321"):
        logit_lens(MODEL, [1], top=321)
    with pytest.raises(TokenOutOfRange, match="token 320"):
        logit_lens(MODEL, [1], tokens=(320,))
    with pytest.raises(NoTokenizer):
        logit_lens(MODEL, [1], tokens=(" Paris",))
    with pytest.raises(UnknownPoint, match="hook_resid_pots"):
        logit_lens(MODEL, [1], sites=("hook_resid_pots",))
    with pytest.raises(SelectorError, match=r"attn\.hook_q"):
        logit_lens(MODEL, [1], sites=("attn.hook_q",))
    with pytest.raises(SelectorError):
        logit_lens(MODEL, [1], pos=4)
    monkeypatch.setattr(MODEL.backend, "sites", list)
    with pytest.raises(UnsupportedAnalysis, match="hook_resid_post"):
        logit_lens(MODEL, [1])


@pytest.mark.parametrize("width", [20, 40, 80, 120])
@pytest.mark.parametrize("pos", [None, -1])
def test_the_terminal_shows_every_token_at_every_width(width, pos):
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=width)
    lens = logit_lens(MODEL, [[1, 2, 3], [4]], pos=pos, tokens=(9,))
    console.print(lens)
    shown = console.file.getvalue()
    squeezed = re.sub(r"\s+", "", shown)
    assert all(len(line) <= width for line in shown.splitlines())
    assert "…" not in shown
    if pos == -1:
        for token in lens.top_id.sel(batch=0).values.flatten().tolist():
            assert lens.text[token] in squeezed


def test_the_page_is_one_file_without_network_and_escapes_tokens(tmp_path):
    model = mi.load(write_tiny_llama(tmp_path / "tiny"), device="cpu")
    text = "</script><script>alert(1)<img src=x>&amp;\n\x1b[31m"
    lens = logit_lens(model, [text, "The capital"], top=3)
    page = lens.to_html(tmp_path / "lens.html")
    assert (tmp_path / "lens.html").read_text(encoding="utf-8") == page
    assert not re.search(r"https?:|src=|<link|@import|url\(", re.sub(r"&lt;.*?&gt;", "", page.replace("src=x", "")))
    assert page.count("<script") == page.count("</script>") == 3
    assert "<img" not in page
    assert "\x1b" not in page
    assert "alert" in page
    assert lens._repr_html_().count("<") == 2
