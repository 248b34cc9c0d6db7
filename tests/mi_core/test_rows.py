from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import tiny_tokenizers
from hypothesis import given
from hypothesis import strategies as st

from mi_core.chat import Chat
from mi_core.errors import ChatTemplateError, NoTokenizer, SpanError
from mi_core.files import Files
from mi_core.json_tokenizer import JsonTokenizer
from mi_core.prompts import read_prompts
from mi_core.rows import RowText

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@cache
def tokenizer(kind: str = "byte_level", template: str = tiny_tokenizers.LLAMA_3) -> JsonTokenizer:
    folder = tiny_tokenizers.save(Path(mkdtemp()), tiny_tokenizers.KINDS[kind](), jinja=template)
    return JsonTokenizer(Files(folder))


@pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
@given(text=TEXTS.filter(lambda text: "\ufffd" not in text))
def test_a_row_of_ids_says_the_text_and_covers_all_of_it(kind: str, text: str) -> None:
    reader = tokenizer(kind)
    row = RowText(reader.encode(text).ids, tokenizer=reader)
    assert row.text == reader.decode(row.ids)
    assert len(row.offsets) == len(row.ids)
    assert {i for start, stop in row.offsets for i in range(start, stop)} == set(range(len(row.text)))


@given(text=TEXTS.filter(lambda text: "\ufffd" not in text))
def test_a_row_of_ids_has_the_offsets_of_its_text(text: str) -> None:
    reader = tokenizer()
    encoding = reader.encode(text, special=False)
    row = RowText(encoding.ids, tokenizer=reader)
    assert (row.text, row.offsets) == (text, encoding.offsets)


@given(ids=st.lists(st.integers(0, 420), max_size=30))
def test_any_ids_have_a_text_and_as_many_offsets_inside_it(ids: list[int]) -> None:
    for kind in tiny_tokenizers.KINDS:
        row = RowText(tuple(ids), tokenizer=tokenizer(kind))
        assert len(row.offsets) == len(row.tokens) == len(ids)
        assert all(0 <= start <= stop <= len(row.text) for start, stop in row.offsets)


def test_without_a_tokenizer_ids_are_shown_and_text_is_refused() -> None:
    for none in (None, lambda: None):
        row = RowText((3, 17), tokenizer=none)
        assert row.tokens == ["<3>", "<17>"]
        with pytest.raises(NoTokenizer, match=r"looked for tokenizer\.json"):
            _ = row.text


def test_a_function_that_finds_the_tokenizer_is_called_for_text_only() -> None:
    calls = []

    def find() -> JsonTokenizer:
        calls.append(1)
        return tokenizer()

    row = read_prompts([[5, 6]], find, d_vocab=400).rows[0]
    assert not calls
    assert row.tokens == [tokenizer().text(5), tokenizer().text(6)]
    assert calls


def test_turns_are_spans_of_the_rendered_text_and_none_where_the_template_rewrote() -> None:
    chat = Chat([{"role": "user", "content": "hello"}, {"role": "assistant", "content": " padded "}])
    row = read_prompts(chat, tokenizer(), d_vocab=400).rows[0]
    assert row.turns is not None
    assert row.turns[0] is not None
    assert row.text[slice(*row.turns[0])] == "hello"
    assert row.turns[1] is None
    twice = read_prompts(Chat(chat.messages[:1] * 2), tokenizer(), d_vocab=400).rows[0]
    assert twice.turn(-1) == twice.turn(1) > twice.turn(0) == twice.turn(-2)
    with pytest.raises(ChatTemplateError, match="Strip the whitespace around the content"):
        row.turn(1)
    with pytest.raises(SpanError, match="has 2 messages, there is no turn 2"):
        row.turn(2)


def test_a_row_that_is_no_chat_has_no_turns() -> None:
    row = read_prompts("hello", tokenizer(), d_vocab=400).rows[0]
    assert row.turns is None
    with pytest.raises(SpanError, match="is no chat"):
        row.turn(0)


@pytest.mark.parametrize("given_as", ["text", "ids", "chat", "alone"])
def test_a_saved_row_says_the_same_without_its_tokenizer(given_as: str) -> None:
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": " padded "}]
    inputs = {"text": "hello 😀", "ids": [0, 5, 9], "chat": Chat(messages), "alone": [1, 2]}[given_as]
    row = read_prompts(inputs, None if given_as == "alone" else tokenizer(), d_vocab=400).rows[0]
    back = RowText.from_json(json.loads(json.dumps(row.to_json())))
    assert (back.ids, back.tokens, back.turns, back.special) == (row.ids, row.tokens, row.turns, row.special)
    if given_as == "alone":
        with pytest.raises(NoTokenizer):
            _ = back.text
    else:
        assert (back.text, back.offsets) == (row.text, row.offsets)
    if given_as == "chat":
        assert back.turn(0) == row.turn(0)
        with pytest.raises(ChatTemplateError, match="message 1"):
            back.turn(1)
