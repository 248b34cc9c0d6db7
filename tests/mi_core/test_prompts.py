from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import tiny_tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_core.chat import Chat
from mi_core.errors import EmptyInput, InputError, MaskMismatch, NoTokenizer, TokenOutOfRange
from mi_core.files import Files
from mi_core.json_tokenizer import JsonTokenizer
from mi_core.prompts import Prompts, read_prompts
from mi_core.tokenizer import Encoding

VOCABULARY = 50
ROWS = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6), min_size=1, max_size=4)


@cache
def tokenizer() -> JsonTokenizer:
    folder = tiny_tokenizers.save(Path(mkdtemp()), tiny_tokenizers.byte_level(), jinja=tiny_tokenizers.LLAMA_3)
    return JsonTokenizer(Files(folder))


def read(inputs: Any, **options: Any) -> Prompts:
    return read_prompts(inputs, None, d_vocab=VOCABULARY, **options)


def said(inputs: Any, **options: Any) -> Prompts:
    return read_prompts(inputs, tokenizer, d_vocab=10**4, **options)


@given(rows=ROWS)
def test_rows_of_unequal_length_are_padded_on_the_right(rows: list[list[int]]) -> None:
    prompts = read(rows)
    assert prompts.ids.dtype == torch.long
    assert [list(row.ids) for row in prompts.rows] == rows
    assert (prompts.mask is None) == (len({len(row) for row in rows}) == 1)
    for number, row in enumerate(rows):
        assert prompts.ids[number].tolist() == row + [0] * (prompts.ids.shape[1] - len(row))
        if prompts.mask is not None:
            assert prompts.mask[number].tolist() == [column < len(row) for column in range(prompts.ids.shape[1])]


@given(data=st.data(), batch=st.integers(1, 3), width=st.integers(1, 6))
def test_any_pattern_of_a_mask_is_kept_and_pads_may_hold_anything(data: st.DataObject, batch: int, width: int) -> None:
    ids = torch.tensor(
        data.draw(
            st.lists(st.lists(st.integers(0, 49), min_size=width, max_size=width), min_size=batch, max_size=batch)
        )
    )
    mask = torch.tensor(
        [data.draw(st.lists(st.booleans(), min_size=width, max_size=width).filter(any)) for _ in range(batch)]
    )
    junk = ids.masked_fill(~mask, data.draw(st.sampled_from([-1, 10**9, 0])))
    forms = [mask, mask.long(), mask.float(), mask.tolist(), mask.long().numpy(), mask.numpy()]
    prompts = read(junk, attention_mask=data.draw(st.sampled_from(forms)))
    assert torch.equal(prompts.ids, ids * mask)
    assert (prompts.mask is None) if bool(mask.all()) else torch.equal(prompts.mask, mask)  # type: ignore[arg-type]
    assert [row.ids for row in prompts.rows] == [tuple(r[m].tolist()) for r, m in zip(ids, mask, strict=True)]


@pytest.mark.parametrize(
    "inputs",
    [
        [1, 2, 3],
        (1, 2, 3),
        [[1, 2, 3]],
        [np.int64(1), 2, 3],
        torch.tensor([1, 2, 3]),
        torch.tensor([[1, 2, 3]], dtype=torch.uint8),
        np.array([1, 2, 3], dtype=np.int32),
        np.array([[9, 1], [9, 2], [9, 3]]).T[1:],
        [torch.tensor([1, 2, 3])],
        [np.array([1, 2, 3])],
    ],
    ids=repr,
)
def test_every_form_of_ids_is_one_prompt(inputs: Any) -> None:
    prompts = read(inputs)
    assert prompts.ids.tolist() == [[1, 2, 3]]
    assert prompts.mask is None
    assert prompts.position_ids is None


def test_a_tensor_of_the_user_is_neither_changed_nor_kept() -> None:
    ids = torch.tensor([[7, 2]])
    prompts = read(ids, attention_mask=[[0, 1]])
    assert ids.tolist() == [[7, 2]]
    assert prompts.ids.tolist() == [[0, 2]]
    assert read(ids).ids.data_ptr() != ids.data_ptr()


def test_a_mask_is_never_guessed_from_pad_ids() -> None:
    assert read([[0, 0, 1], [1, 0, 0]]).mask is None


def test_lists_of_unequal_length_take_a_mask_of_their_own_lengths_or_of_the_rectangle() -> None:
    for mask in ([[0, 1, 1], [1]], [[0, 1, 1], [1, 0, 0]]):
        prompts = read([[1, 2, 3], [4]], attention_mask=mask)
        assert prompts.mask is not None
        assert prompts.mask.tolist() == [[False, True, True], [True, False, False]]
    with pytest.raises(MaskMismatch, match="behind the end of row 1"):
        read([[1, 2, 3], [4]], attention_mask=[[1, 1, 1], [1, 1, 0]])


def test_a_text_is_encoded_with_its_bos_and_shown() -> None:
    prompts = said("hello world")
    assert prompts.rows[0].tokens == ["<s>", "he", "llo", " world"]
    assert prompts.rows[0].text == "hello world"
    assert prompts.rows[0].special == (True, False, False, False)
    assert tuple(prompts.ids[0].tolist()) == tokenizer().encode("hello world").ids


def test_texts_and_chats_may_be_mixed() -> None:
    chat = Chat([{"role": "user", "content": "hello"}])
    prompts = said(["hello", chat])
    alone = [said(each).rows[0] for each in ("hello", chat)]
    assert list(prompts.rows) == alone
    assert prompts.rows[1].ids == tuple(tokenizer().chat(chat.messages))
    assert prompts.rows[1].ids.count(0) == 1
    assert prompts.mask is not None
    assert prompts.mask.sum(1).tolist() == [len(row.ids) for row in alone]


def test_a_tokenizer_that_only_gives_ids_of_chats_will_do() -> None:
    class Counting:
        size, bos, eos, pad = 10, None, None, None

        def encode(self, text: str, special: bool = True) -> Encoding:
            return Encoding(tuple(range(len(text))), tuple((i, i + 1) for i in range(len(text))), (False,) * len(text))

        def decode(self, ids: Any) -> str:
            return "".join(self.text(token) for token in ids)

        def text(self, id: int) -> str:  # noqa: A002
            return str(id)

        def single(self, text: str) -> int:
            return len(text)

        def chat(self, messages: Any, add_generation_prompt: bool = True, **template: Any) -> list[int]:
            return [len(message["content"]) for message in messages]

    chat = Chat([{"role": "user", "content": "hello"}, {"role": "user", "content": "you"}])
    prompts = read_prompts(chat, Counting(), d_vocab=10)
    assert prompts.ids.tolist() == [[5, 3]]
    assert prompts.rows[0].text == "53"
    assert prompts.rows[0].turns == (None, None)


@pytest.mark.parametrize(
    "position_ids", [[3, 4, 5], torch.tensor([3, 4, 5]), np.array([[3, 4, 5]]), [[3, 4, 5], [3, 4, 5]]]
)
def test_positions_come_for_one_row_or_for_each(position_ids: Any) -> None:
    prompts = read([[1, 2, 3], [4, 5, 6]], position_ids=position_ids)
    assert prompts.position_ids is not None
    assert prompts.position_ids.tolist() == [[3, 4, 5], [3, 4, 5]]


def test_positions_at_pads_are_of_no_account() -> None:
    prompts = read([[1, 2], [3]], position_ids=[[5, 6], [7]])
    assert prompts.position_ids is not None
    assert prompts.position_ids.tolist() == [[5, 6], [7, 0]]
    masked = read([[9, 2]], attention_mask=[[0, 1]], position_ids=[[-5, 6]])
    assert masked.position_ids is not None
    assert masked.position_ids.tolist() == [[0, 6]]


@pytest.mark.parametrize(
    ("position_ids", "why"),
    [
        ([[1, 2]], r"position_ids have shape \(1, 2\), the tokens have \(2, 3\)"),
        ([[0, 1, 2], [0, -1, 2]], "hold -1 in row 1, column 1"),
        (torch.zeros(2, 3), "are torch.float32, not integers"),
        ([["a"]], "position_ids holds something that is no integer"),
        ("abc", "give a tensor or lists"),
        ([[1, 2, 3], [1]], "rows of lengths"),
    ],
)
def test_positions_that_do_not_fit_are_refused(position_ids: Any, why: str) -> None:
    with pytest.raises(MaskMismatch, match=why):
        read([[1, 2, 3], [4, 5, 6]], position_ids=position_ids)


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        ([[1, 1]], r"attention_mask has shape \(1, 2\), the tokens have \(2, 3\)"),
        ([1, 1, 1], r"attention_mask has shape \(1, 3\)"),
        (torch.ones(2, 1, 3), r"has shape \(2, 1, 3\)"),
        ([[1, 1, 2], [1, 1, 1]], "attention_mask holds 2; it is 1 at tokens"),
        (torch.tensor([[0.0, 0, 0], [0, 0, float("-inf")]]), "holds -inf"),
        ([[0.5, 1, 1], [1, 1, 1]], "no integer"),
        ([[1, 1, 1], [1]], "rows of lengths"),
        ([], "give a tensor or lists"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: Any, why: str) -> None:
    with pytest.raises(MaskMismatch, match=why):
        read([[1, 2, 3], [4, 5, 6]], attention_mask=mask)


def test_a_mask_with_text_is_refused() -> None:
    with pytest.raises(MaskMismatch, match="given with text"):
        said("hello", attention_mask=[[1, 1]])


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ([], "an empty list holds no prompt"),
        ([[1], []], "row 1 of the input has no token"),
        (torch.zeros(0, dtype=torch.long), r"shape \(0,\)"),
        (torch.zeros(2, 0, dtype=torch.long), "row 0 of the input has no real token"),
        (torch.zeros(0, 2, dtype=torch.long), "holds no prompt"),
    ],
)
def test_a_prompt_without_a_token_is_refused(inputs: Any, why: str) -> None:
    with pytest.raises(EmptyInput, match=why):
        read(inputs)


def test_a_row_that_is_all_pads_is_refused_by_its_number() -> None:
    with pytest.raises(EmptyInput, match="row 1 of the input has no real token: its mask is zero everywhere") as caught:
        read([[1, 2], [3, 4]], attention_mask=[[1, 1], [0, 0]])
    assert caught.value.row == 1


def test_an_empty_text_is_refused_only_where_it_has_no_token(tmp_path: Path) -> None:
    assert said("").rows[0].tokens == ["<s>"]
    bare = JsonTokenizer(Files(tiny_tokenizers.save(tmp_path, tiny_tokenizers.byte_level(bos=False))))
    with pytest.raises(EmptyInput, match="prompt 1, '', has no token"):
        read_prompts(["a", ""], bare, d_vocab=10**4)


@pytest.mark.parametrize(
    ("inputs", "token", "row", "column"),
    [
        ([1, 50], 50, 0, 1),
        ([[1], [2, -1]], -1, 1, 1),
        (torch.tensor([[1, 10**12]]), 10**12, 0, 1),
        ([2**70], 2**70, 0, 0),
    ],
)
def test_an_id_outside_the_vocabulary_is_named_with_its_place(inputs: Any, token: int, row: int, column: int) -> None:
    with pytest.raises(TokenOutOfRange, match=rf"row {row}, column {column} holds token {token}") as caught:
        read(inputs)
    assert (caught.value.id, caught.value.row, caught.value.column) == (token, row, column)


def test_a_tokenizer_with_more_tokens_than_the_model_is_found_out() -> None:
    with pytest.raises(TokenOutOfRange, match=r"\(' world': the tokenizer has more tokens than the model\)"):
        read_prompts(" world", tokenizer, d_vocab=290)


@pytest.mark.parametrize(
    "inputs",
    [
        None, 3, 2.5, {"role": "user"}, [{"role": "user", "content": "x"}], [1.0, 2.0], [[1, 2.5]], [True, False],
        [[1], 2], ["a", 1], [1, "a"], [["a"]], [None], b"bytes", {1, 2}, torch.zeros(2), torch.ones(2) > 0,
        np.zeros(2), np.array(["a"]), torch.tensor(3), torch.ones(1, 1, 1).long(), [torch.ones(1, 1).long()],
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_prompt_is_refused_with_what_is_taken(inputs: Any) -> None:
    with pytest.raises(InputError, match=r"Inputs are a text, a mi\.Chat"):
        read(inputs)


def test_text_without_a_tokenizer_names_the_files_that_were_looked_for() -> None:
    for none in (None, lambda: None):
        with pytest.raises(NoTokenizer, match=r"looked for tokenizer\.json"):
            read_prompts("hello", none, d_vocab=5)
