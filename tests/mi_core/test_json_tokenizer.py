from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import tiny_tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from mi_core.errors import NotSingleToken, TokenizerError, TokenOutOfRange
from mi_core.files import Files
from mi_core.json_tokenizer import JsonTokenizer
from mi_core.tokenizer import Encoding, ids_of

KINDS = sorted(tiny_tokenizers.KINDS)
TEXTS = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        st.sampled_from(
            ["The capital of France", " Paris", "<s>", "</s>", "<|eot_id|>", "naïve", "e\u0301", "👩‍👩‍👧", "  ", "\n"]
        ),
    ),
    max_size=6,
).map("".join)


@cache
def pair(kind: str) -> tuple[JsonTokenizer, PreTrainedTokenizerFast]:
    folder = tiny_tokenizers.save(Path(mkdtemp()), tiny_tokenizers.KINDS[kind]())
    return JsonTokenizer(Files(folder)), PreTrainedTokenizerFast.from_pretrained(folder)


def both(folder: Path) -> tuple[JsonTokenizer, PreTrainedTokenizerFast]:
    return JsonTokenizer(Files(folder)), PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS, special=st.booleans())
def test_texts_are_encoded_and_decoded_as_transformers_does_it(kind: str, text: str, special: bool) -> None:
    ours, theirs = pair(kind)
    ids = theirs.encode(text, add_special_tokens=special)
    assert list(ours.encode(text, special).ids) == ids
    assert list(ids_of(ours, text)) == list(ours.encode(text).ids)
    assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)


def test_ids_are_those_of_whoever_encodes_in_another_way() -> None:
    class Loud(JsonTokenizer):
        def encode(self, text: str, special: bool = True) -> Encoding:
            return super().encode(text.upper(), special)

    ours = pair("byte_level")[0]
    loud = Loud(ours.files)
    assert ids_of(loud, "a text") == loud.encode("a text").ids == ours.encode("A TEXT").ids
    with pytest.raises(TokenizerError, match="no text of Unicode"):
        ours.ids("half \ud800")


@pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
@given(text=TEXTS)
def test_offsets_cover_the_text_in_order(kind: str, text: str) -> None:
    encoding = pair(kind)[0].encode(text)
    covered = {index for start, stop in encoding.offsets for index in range(start, stop)}
    assert covered == set(range(len(text)))
    assert sorted(encoding.offsets[1:]) == list(encoding.offsets[1:])


@given(text=TEXTS)
def test_byte_level_round_trip_loses_nothing(text: str) -> None:
    ours = pair("byte_level")[0]
    assert ours.decode(ours.encode(text, special=False).ids) == text


@given(text=TEXTS)
def test_each_byte_level_token_says_the_characters_that_it_covers_whole(text: str) -> None:
    ours = pair("byte_level")[0]
    encoding = ours.encode(text, special=False)
    for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
        if "<0x" not in ours.text(token):
            assert ours.text(token) == text[start:stop]


def test_tokens_of_one_character_each_cover_it() -> None:
    for kind in ("byte_level", "metaspace"):
        ours = pair(kind)[0]
        encoding = ours.encode("a😀", special=False)
        pieces = [
            token for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True) if stop > start >= 1
        ]
        assert [ours.text(piece) for piece in pieces] == ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]


def test_a_space_put_before_the_text_covers_nothing() -> None:
    encoding = pair("metaspace")[0].encode("zz")
    assert encoding.offsets == ((0, 0), (0, 0), (0, 1), (1, 2))


def test_offsets_point_into_the_text_as_given_where_a_normaliser_changes_its_length() -> None:
    ours = pair("words")[0]
    text = "HOW ﬁne  Are you"  # NFKC makes two letters of the ligature
    encoding = ours.encode(text)
    assert [text[start:stop] for start, stop in encoding.offsets] == ["HOW", "ﬁne", "Are", "you"]
    assert [ours.text(token) for token in encoding.ids] == ["how", "<unk>", "are", "you"]


def test_control_tokens_are_marked_wherever_they_stand() -> None:
    ours = pair("byte_level")[0]
    encoding = ours.encode("hello</s>")
    assert [ours.text(token) for token, mark in zip(encoding.ids, encoding.special, strict=True) if mark] == [
        "<s>",
        "</s>",
    ]


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("stated", [True, False])
def test_the_post_processor_decides_on_the_bos_whatever_add_bos_token_says(
    tmp_path: Path, bos: bool, stated: bool
) -> None:
    tiny_tokenizers.save(tmp_path, tiny_tokenizers.byte_level(bos=bos), add_bos_token=stated)
    ours, theirs = both(tmp_path)
    ids = ours.encode("hello").ids
    assert list(ids) == theirs.encode("hello")
    assert (ids[0] == ours.bos) is bos


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizers.byte_level()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    ours = JsonTokenizer(Files(tiny_tokenizers.save(tmp_path, tokenizer)))
    free = pair("byte_level")[0]
    for text in ("hello", "The capital of France is Paris."):
        assert ours.encode(text) == free.encode(text)


@pytest.mark.parametrize("older", [False, True])
def test_tokens_that_only_the_config_names_get_the_ids_that_transformers_gives(tmp_path: Path, older: bool) -> None:
    named = {"pad_token": "<pad>", "image_token": "<image>", "additional_special_tokens": ["<extra>", "<s>"]}
    if older:
        tiny_tokenizers.save(tmp_path, tiny_tokenizers.byte_level(), image_token="<image>")
        both_files = {"pad_token": {"content": "<pad>", "lstrip": True, "rstrip": False, "normalized": False}}
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(both_files))
    else:
        size = tiny_tokenizers.byte_level().get_vocab_size()
        flags = {"lstrip": False, "rstrip": True, "normalized": False, "single_word": False}
        listed = {
            str(size + 1): {"content": "<tool>", "special": False} | flags,
            str(size): {"content": "<pad>", "special": False} | flags,  # a token with a role is special all the same
        }
        tiny_tokenizers.save(tmp_path, tiny_tokenizers.byte_level(), added_tokens_decoder=listed, **named)
    ours, theirs = both(tmp_path)
    text = "hello <pad> <image> x<extra>  y <tool>  z"
    assert list(ours.encode(text).ids) == theirs.encode(text)
    assert (ours.size, ours.bos, ours.eos, ours.pad) == (len(theirs), 0, 1, theirs.pad_token_id)
    assert ours.text(theirs.pad_token_id) == "<pad>"
    assert ours.encode("<pad>", special=False).special == (True,)


def test_the_older_file_counts_only_where_the_config_lists_no_tokens(tmp_path: Path) -> None:
    tiny_tokenizers.save(tmp_path, tiny_tokenizers.byte_level(), added_tokens_decoder={})
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|eot_id|>"}))
    ours, theirs = both(tmp_path)
    assert ours.eos == theirs.eos_token_id == 1


def test_split_special_tokens_is_heeded(tmp_path: Path) -> None:
    ours, theirs = both(tiny_tokenizers.save(tmp_path, tiny_tokenizers.byte_level(), split_special_tokens=True))
    assert list(ours.encode("a<|eot_id|>").ids) == theirs.encode("a<|eot_id|>")
    assert len(ours.encode("a<|eot_id|>").ids) > 3


def test_roles_that_nobody_states_are_none(tmp_path: Path) -> None:
    tiny_tokenizers.save(tmp_path, tiny_tokenizers.words())
    (tmp_path / "tokenizer_config.json").unlink()
    ours = JsonTokenizer(Files(tmp_path))
    assert (ours.bos, ours.eos, ours.pad) == (None, None, None)


def test_added_tokens_are_shown_by_name(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizers.byte_level()
    tokenizer.add_tokens([AddedToken("né", normalized=False)])  # as a byte-level piece it would be read as bytes
    ours = JsonTokenizer(Files(tiny_tokenizers.save(tmp_path, tokenizer)))
    assert ours.text(ours.encode("né", special=False).ids[0]) == "né"


def test_a_single_token_is_found_and_a_fragment_refused() -> None:
    ours = pair("byte_level")[0]
    assert ours.text(ours.single(" Paris")) == " Paris"
    assert ours.single("</s>") == ours.eos
    with pytest.raises(NotSingleToken, match=r"'Paris' is 2 tokens: \['Pa', 'ris'\]\. ' Paris', with a leading space"):
        ours.single("Paris")
    with pytest.raises(NotSingleToken, match="'' is no token at all"):
        ours.single("")


def test_a_single_token_is_found_where_a_space_is_put_before_every_text() -> None:
    ours = pair("metaspace")[0]
    spaced = next(piece for piece in ours._backend.get_vocab() if piece.startswith("▁") and piece[1:].isalpha())
    word = spaced[1:]
    assert ours.single(" " + word) == ours._backend.token_to_id(spaced)


def test_the_sign_for_a_space_is_shown_as_one() -> None:
    for kind in ("metaspace", "unigram"):
        ours = pair(kind)[0]
        texts = [ours.text(token) for token in ours.encode("The capital of France").ids]
        assert "▁" not in "".join(texts)
        assert "The capital of France" in "".join(texts)


def test_a_word_outside_the_vocabulary_is_no_single_token() -> None:
    ours = pair("words")[0]
    assert ours.single("Paris") == ours.single("paris")
    with pytest.raises(NotSingleToken, match=r"'xyzzy' is not in the vocabulary: it becomes \['<unk>'\]"):
        ours.single("xyzzy")
    assert ours.text(ours.single("<unk>")) == "<unk>"


def test_ids_that_are_no_token_are_told_apart() -> None:
    ours = pair("byte_level")[0]
    assert ours.text(10**6) == "<1000000>"
    assert ours.decode([10**6]) == ""
    with pytest.raises(TokenOutOfRange, match="-1 is no token id"):
        ours.text(-1)
    with pytest.raises(TokenOutOfRange, match="-1 is no token id"):
        ours.decode([-1])


def test_half_a_character_is_refused() -> None:
    with pytest.raises(TokenizerError, match="no text of Unicode characters"):
        pair("byte_level")[0].encode("a\ud800")


@pytest.mark.parametrize("content", ["{", "{}", '{"model": {"type": "BPE"}}', ""])
def test_a_broken_file_is_an_error_of_ours_that_names_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be read"):
        JsonTokenizer(Files(tmp_path)).encode("hello")


def test_a_special_token_without_a_text_is_refused(tmp_path: Path) -> None:
    tiny_tokenizers.save(tmp_path, tiny_tokenizers.byte_level(), bos_token={"lstrip": False})
    with pytest.raises(TokenizerError, match="which has no text"):
        JsonTokenizer(Files(tmp_path)).encode("hello")


def test_nothing_heavy_is_imported_before_the_first_text() -> None:
    code = (
        "import sys, mi_core.json_tokenizer, mi_core.prompts, mi_core.positions, mi_core.chat;"
        "print([name for name in ('tokenizers', 'jinja2', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
