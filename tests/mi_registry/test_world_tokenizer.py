"""The tokenizer loses nothing, and every answer of the world is one token."""

from __future__ import annotations

from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mi_registry.tiny_world import sentences, tokenizer, words
from mi_registry.tiny_world.prompts import HELD_OUT, held_out
from mi_registry.tiny_world.world import COUNTRIES


def shipped() -> Tokenizer:
    return Tokenizer.from_str((files("mi_registry") / "tiny_world" / "tokenizer.json").read_text(encoding="utf-8"))


MADE = shipped()
ENGLISH = ("The", "queen", "can't", "find", "12", "of", "naïve", "Zoë's", "3,141", "books,", "(again)!")


def ids(text: str) -> list[int]:
    return list(MADE.encode(text, add_special_tokens=False).ids)


@given(st.text().filter(lambda text: tokenizer.BOS not in text))
def test_any_text_comes_back_as_it_was(text: str) -> None:
    assert MADE.decode(ids(text)) == text


@given(
    st.lists(
        st.sampled_from(["The", "queen", "can't", "find", "12", "of", "naïve", "Zoë's", "3,141", "books,", "(again)!"]),
        min_size=1,
    )
)
def test_ordinary_english_comes_back_as_it_was(parts: list[str]) -> None:
    text = " ".join(parts)
    assert MADE.decode(MADE.encode(text).ids) == text


def test_every_text_begins_with_bos() -> None:
    assert MADE.encode("The capital of France is").tokens == ["<bos>", "The", "Ġcapital", "Ġof", "ĠFrance", "Ġis"]
    assert MADE.encode("").tokens == ["<bos>"]


@pytest.mark.parametrize("skill", HELD_OUT)
def test_every_answer_is_one_token(skill: str) -> None:
    answers = {text for prompt in held_out(skill) for text in prompt.right + prompt.wrong}
    assert {answer for answer in answers if len(ids(answer)) != 1} == set()


def test_every_word_of_the_tables_is_one_token() -> None:
    nouns = [form for pair in words.NOUNS for form in pair]
    verbs = [form for pair in words.VERBS for form in pair]
    tables = [*words.NAMES, *nouns, *verbs, *words.THINGS, *words.POSITIVE, *words.NEGATIVE, *words.GIFTS]
    listed = [word for row in COUNTRIES for word in row] + tables + list(sentences.DEEDS + words.PLACES)
    assert [word for word in listed if len(ids(f" {word}")) != 1] == []


def test_the_script_makes_the_shipped_tokenizer_again() -> None:
    assert tokenizer.make().to_str() == MADE.to_str()


def test_the_size_is_what_was_asked_for() -> None:
    assert MADE.get_vocab_size() == tokenizer.SIZE
    small = tokenizer.train(["a bc"], size=300)
    assert isinstance(small, Tokenizer)
    assert small.encode("a bc").tokens == ["<bos>", "a", "Ġbc"]
