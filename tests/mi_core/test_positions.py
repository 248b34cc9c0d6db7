from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import tiny_tokenizers
from hypothesis import assume, given
from hypothesis import strategies as st

from mi_core.chat import Chat
from mi_core.errors import ChatTemplateError, NoTokenizer, SelectorError, SpanError
from mi_core.files import Files
from mi_core.json_tokenizer import JsonTokenizer
from mi_core.positions import Position, Span, Token, Turn, position_from_json
from mi_core.prompts import read_prompts
from mi_core.rows import RowText

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
POSITIONS = st.one_of(
    st.builds(Span, TEXTS | st.lists(TEXTS, min_size=1, max_size=3), st.none() | st.integers(-2, 3)),
    st.builds(Token, TEXTS | st.lists(TEXTS, min_size=1, max_size=3), st.none() | st.integers(-2, 3)),
    st.builds(Turn, st.integers(-3, 3), st.sampled_from(["content", "after"])),
).flatmap(lambda position: st.sampled_from([position, position.first, position.last]))
CHAT = [
    {"role": "user", "content": "How are you?"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "Paris"},
]


@cache
def tokenizer(kind: str = "byte_level", template: str = tiny_tokenizers.LLAMA_3) -> JsonTokenizer:
    folder = tiny_tokenizers.save(Path(mkdtemp()), tiny_tokenizers.KINDS[kind](), jinja=template)
    return JsonTokenizer(Files(folder))


def row(inputs: object, kind: str = "byte_level") -> RowText:
    return read_prompts(inputs, tokenizer(kind), d_vocab=10**4).rows[0]


def said(position: Position, inputs: object, number: int = 0) -> list[str]:
    texts = row(inputs)
    return [texts.tokens[index] for index in position.resolve(texts, number)]


@pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
@given(text=TEXTS, data=st.data())
def test_a_span_is_the_fewest_tokens_whose_text_holds_it(kind: str, text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start + 1, len(text)))
    texts = row(text, kind)
    occurrences = [at for at in range(len(text)) if text.startswith(text[start:stop], at)]
    found = Span(text[start:stop], nth=occurrences.index(start)).resolve(texts, 0)
    covered = [texts.offsets[index] for index in found]
    assert found == list(range(found[0], found[-1] + 1))
    assert covered[0][0] <= start
    assert covered[-1][1] >= stop
    assert all(first < stop and last > start for first, last in covered)
    others = [texts.offsets[index] for index in range(len(texts.ids)) if index not in found]
    assert all(first >= stop or last <= start for first, last in others)


@given(text=TEXTS, part=TEXTS)
def test_a_text_that_is_not_there_is_an_error_that_shows_the_tokens(text: str, part: str) -> None:
    assume(part not in text)
    texts = row(text)
    with pytest.raises(SpanError, match="is not in row 0") as caught:
        Span(part).resolve(texts, 0)
    assert caught.value.tokens == texts.tokens
    assert all(repr(token)[1:-1] in str(caught.value) for token in texts.tokens)


@given(position=POSITIONS)
def test_positions_are_values_that_survive_saving(position: Position) -> None:
    back = position_from_json(json.loads(json.dumps(position.to_json())))
    assert back == position
    assert hash(back) == hash(position)
    assert repr(back) == repr(position)
    assert eval(repr(position), {"Span": Span, "Token": Token, "Turn": Turn}) == position


def test_a_span_takes_tokens_that_also_hold_other_characters() -> None:
    prompt = "The capital of France is Paris"
    assert said(Span("France"), prompt) == [" France"]
    assert said(Span("France is"), prompt) == [" France", " is"]
    assert said(Span("apital of F"), prompt) == [" capital", " of", " France"]
    assert said(Span("France is").first, prompt) == [" France"]
    assert said(Span("France is").last, prompt) == [" is"]


def test_the_invented_space_of_a_metaspace_tokenizer_is_in_no_span() -> None:
    texts = row("zz", "metaspace")
    assert Span("zz").resolve(texts, 0) == [2, 3]


def test_spans_work_on_rows_of_ids() -> None:
    ids = list(tokenizer().encode("The capital of France is").ids)
    assert said(Span("France"), ids) == [" France"]
    with pytest.raises(NoTokenizer):
        Span("France").resolve(RowText((1, 2)), 0)


def test_several_occurrences_are_listed_and_nth_chooses() -> None:
    prompt = "Paris is Paris, and Paris"
    with pytest.raises(SpanError, match=r"Span\('Paris'\) is 3 times in row 0\. Choose one with nth=") as caught:
        said(Span("Paris"), prompt)
    occurrences = caught.value.occurrences
    assert [Span("Paris", nth=nth).resolve(row(prompt), 0) for nth in (0, 1, 2)] == occurrences
    assert Span("Paris", nth=-1).resolve(row(prompt), 0) == occurrences[-1]  # type: ignore[index]
    assert "nth=1: position 4 in 'Paris is[ Paris], and Paris'" in str(caught.value)
    with pytest.raises(SpanError, match="asks for occurrence 3, and row 0 has 3"):
        said(Span("Paris", nth=3), prompt)


def test_overlapping_occurrences_count() -> None:
    with pytest.raises(SpanError, match="is 2 times"):
        said(Span("zz"), "zzz")


def test_a_token_is_one_whose_whole_text_it_is() -> None:
    prompt = "The capital of France is"
    assert said(Token(" France"), prompt) == [" France"]
    with pytest.raises(SpanError, match=r"is not in row 0, but ' France' is\. Its tokens: \['<s>', 'The'"):
        said(Token("France"), prompt)
    with pytest.raises(SpanError, match="is 2 times in row 0"):
        said(Token(" of"), "The capital of France of")
    assert Token(" of", nth=1).resolve(row("The capital of France of"), 0) == [5]
    assert Token("<7>").resolve(RowText((1, 7)), 0) == [1]


def test_another_case_is_pointed_out() -> None:
    with pytest.raises(SpanError, match="but 'France' is"):
        said(Span("france"), "The capital of France is")


def test_a_list_has_one_text_for_each_row() -> None:
    position = Span(["France", "Italy"])
    assert position.rows == 2
    assert Span("France").rows is None
    assert said(position, "The capital of France is", 0) == [" France"]
    assert "".join(said(position, "The capital of Italy is", 1)) == " Italy"
    with pytest.raises(SpanError, match=r"has 2 texts, one for each row, and there is a row 2"):
        said(position, "The capital of Spain is", 2)


@pytest.mark.parametrize("text", ["", [], ["a", ""], [3], 3])
def test_a_span_of_nothing_is_refused(text: object) -> None:
    for kind in (Span, Token):
        with pytest.raises(SpanError, match="takes a text, or one text for each row"):
            kind(text)


def test_turns_and_what_follows_them_take_every_token_behind_the_first_header_once() -> None:
    texts = row(Chat(CHAT))
    parts = [part.resolve(texts, 0) for index in range(3) for part in (Turn(index), Turn(index).after)]
    flat = [index for part in parts for index in part]
    assert flat == list(range(flat[0], len(texts.ids)))
    assert "".join(texts.tokens[index] for index in parts[0]) == "How are you?"
    assert texts.tokens[parts[1][0]] == "<|eot_id|>"
    assert Turn(0).after.first.resolve(texts, 0) == parts[1][:1]
    assert Turn(0).last.resolve(texts, 0) == parts[0][-1:]
    assert Turn(-1).resolve(texts, 0) == parts[4]
    assert Turn(-1).after.resolve(texts, 0) == parts[5]


def test_a_token_that_holds_a_part_of_a_content_is_never_after_it() -> None:
    chat = [{"role": "user", "content": "The capital of France"}, {"role": "user", "content": "Paris"}]
    reader = tokenizer("metaspace", "{% for message in messages %}{{ message.content }} is {% endfor %}")
    texts = read_prompts(Chat(chat), reader, d_vocab=10**4).rows[0]
    assert [texts.tokens[index] for index in Turn(0).resolve(texts, 0)] == [" The capital of France "]
    assert texts.tokens[Turn(1).resolve(texts, 0)[0]] == "is Pa"
    with pytest.raises(SpanError, match=r"Turn\(0\)\.after holds no token in row 0"):
        Turn(0).after.resolve(texts, 0)


def test_turns_that_cannot_be_are_refused_with_the_row() -> None:
    with pytest.raises(SpanError, match=r"Turn\(3\) in row 1: the chat has 3 messages"):
        Turn(3).resolve(row(Chat(CHAT)), 1)
    with pytest.raises(SpanError, match=r"Turn\(0\) in row 0: this row is no chat"):
        Turn(0).resolve(row("hello"), 0)
    with pytest.raises(ChatTemplateError, match=r"Turn\(0\) in row 0: the chat template rewrites"):
        Turn(0).resolve(row(Chat([{"role": "user", "content": " hello"}])), 0)
    with pytest.raises(SpanError, match=r"Turn\(0\) holds no token in row 0"):
        Turn(0).resolve(row(Chat([{"role": "user", "content": ""}])), 0)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SelectorError, match="its kind is none of span, token, turn, part"):
        position_from_json({"kind": "word"})
