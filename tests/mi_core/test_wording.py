from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_models import talking

from mi_core.tokenizer import Tokenizer
from mi_core.wording import Wording

TEXTS = st.text(st.sampled_from("the cat sat é€🎈\n"), min_size=1, max_size=20)


@cache
def reader() -> Tokenizer:
    tokenizer = talking().tokenizer
    assert tokenizer is not None
    return tokenizer


def said(text: str, stops: tuple[str, ...], prompt: str = "the dog") -> tuple[Wording, list[str]]:
    """A text, token by token, until a stop string; the pieces that a listener gets."""
    wording = Wording(reader(), reader().encode(prompt).ids, stops)
    ids = reader().encode(text, special=False).ids
    pieces = []
    for at, token in enumerate(ids):
        wording.add(token)
        last = at == len(ids) - 1 or wording.stop is not None
        if last:
            wording.end()
        pieces.append(wording.piece(last))
        if last:
            break
    return wording, pieces


@given(TEXTS)
def test_the_pieces_are_the_text(text: str) -> None:
    wording, pieces = said(text, ())
    assert wording.text == "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@given(TEXTS, st.lists(st.text(st.sampled_from("the cat é🎈"), min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_stop_string_is_found_wherever_tokens_begin(text: str, stops: list[str]) -> None:
    wording, pieces = said(text, tuple(stops))
    found = [text.index(stop) for stop in stops if stop in text]
    if wording.stop is not None:
        assert wording.text == text[: text.index(wording.stop)]
    else:
        assert not found
        assert wording.text == text
    assert "".join(pieces) == wording.text


def test_half_a_character_waits_for_the_rest_and_is_shown_when_nothing_comes() -> None:
    ids = reader().encode("🎈", special=False).ids
    assert len(ids) > 1
    wording = Wording(reader(), (), ())
    wording.add(ids[0])
    assert wording.piece(False) == ""
    wording.end()
    assert wording.piece(True) == wording.text == "\ufffd"


@pytest.mark.parametrize("several", [False, True])
def test_generation_stops_at_a_string_and_tells_a_listener(several: bool) -> None:
    free = talking().generate(["the cat", "a dog sat"], max_new_tokens=8)
    first = free.text[0]
    stop = first[len(first) // 2 : len(first) // 2 + 3]
    heard: dict[int, list[tuple[str, int]]] = {0: [], 1: []}
    made = talking().generate(
        ["the cat", "a dog sat"],
        max_new_tokens=8,
        stop=[stop, "never said"] if several else stop,
        stream=lambda row, text, token: heard[row].append((text, token)),
    )
    assert made.ended[0] == "stop"
    assert made.text[0] == first[: first.index(stop)]
    assert made.new_tokens[0] == free.new_tokens[0][: len(made.new_tokens[0])]
    for row in (0, 1):
        assert "".join(text for text, _ in heard[row]) == made.text[row]
        assert [token for _, token in heard[row]] == made.new_tokens[row]


def test_true_prints_a_row_as_it_comes_and_several_as_they_end(capsys: pytest.CaptureFixture[str]) -> None:
    made = talking().generate("the cat", max_new_tokens=4, stream=True)
    assert capsys.readouterr().out == made.text[0] + "\n"
    made = talking().generate(["the cat", "a dog"], max_new_tokens=4, stream=True)
    assert capsys.readouterr().out == f"0: {made.text[0]}\n1: {made.text[1]}\n"


def test_ids_without_a_tokenizer_are_told_by_number() -> None:
    wording = Wording(None, (1, 2), ())
    wording.add(17)
    assert wording.piece(False) == "<17>"
