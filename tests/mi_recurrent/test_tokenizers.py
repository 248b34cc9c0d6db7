"""Tokenizers of recurrent models: byte strings, the longest first; found by what a checkpoint holds, never guessed."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from original_checkpoints import DATA, random_original
from reference_data import reference_folder
from safetensors.torch import load_file

import mi_core as mi
from mi_core.config import Config
from mi_core.errors import NoTokenizer, NotSingleToken, TokenizerError, TokenOutOfRange
from mi_core.files import Files
from mi_core.tokenizer import RendersChats, Tokenizer, find_tokenizer
from mi_recurrent.byte_tokenizer import byte_tokenizer
from mi_recurrent.piece_tokenizer import PieceTokenizer
from mi_recurrent.world_tokenizer import VOCABULARY, world_tokenizer

MORE = (
    b"ab",
    b"abc",
    b"abcd\n",
    b" the",
    "é".encode(),
    "你".encode(),
    "你好".encode(),
    b"\n\n",
    b"  ",
    b"\xe4\xbd",
    b"'\\",
)
"""Pieces of several bytes: a prefix of another, spaces, ends of lines, quotes, a part of a character."""
TABLE = {1 + byte: bytes([byte]) for byte in range(256)} | {257 + n: piece for n, piece in enumerate(MORE)}
ALPHABET = st.sampled_from([*"abcd the\n'\\x", "é", "你", "好", "🎉", "\r", "\u2028", "\x85", "\0"])


def table(lines: str = "\n") -> str:
    """The pieces as a vocabulary file: text where it is text, else bytes."""

    def written(piece: bytes) -> str:
        try:
            return repr(piece.decode())
        except UnicodeDecodeError:
            return repr(piece)

    return "".join(f"{token} {written(piece)} {len(piece)}{lines}" for token, piece in TABLE.items())


def found(folder: Path, **files: Any) -> Tokenizer | None:
    """The tokenizer of a folder with these files."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.{'json' if text is not content else 'txt'}").write_text(text, encoding="utf-8", newline="")
    return find_tokenizer(Files(folder), Config({}))


@cache
def own() -> PieceTokenizer:
    return PieceTokenizer(lambda: TABLE, where="a test", end=(0, "<end>"))


@given(st.text(ALPHABET, max_size=30))
def test_every_token_is_the_longest_that_fits(text: str) -> None:
    data, at = text.encode(), 0
    encoding = own().encode(text)
    for token in encoding.ids:
        assert token == max(
            (t for t, piece in TABLE.items() if data.startswith(piece, at)), key=lambda t: len(TABLE[t])
        )
        at += len(TABLE[token])
    assert at == len(data)
    assert own().decode(encoding.ids) == text
    assert encoding.special == (False,) * len(encoding.ids)


@given(st.text(ALPHABET, max_size=30))
def test_tokens_cover_the_characters_of_which_they_hold_bytes(text: str) -> None:
    encoding, at = own().encode(text), 0
    for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
        end = at + len(TABLE[token])
        # the shortest stretch of characters that has all of the token's bytes
        assert len(text[:start].encode()) <= at < len(text[: start + 1].encode())
        assert len(text[: stop - 1].encode()) < end <= len(text[:stop].encode())
        at = end


def test_it_is_a_tokenizer_in_every_respect() -> None:
    tokenizer = own()
    assert isinstance(tokenizer, Tokenizer)
    assert isinstance(tokenizer, RendersChats)
    assert (tokenizer.size, tokenizer.eos, tokenizer.bos, tokenizer.pad) == (257 + len(MORE), 0, 0, None)
    assert [tokenizer.text(token) for token in (0, 260, 1 + 0xE2, 999)] == ["<end>", " the", "<0xE2>", "<999>"]
    assert tokenizer.decode([0, 98, 999, 1 + 0xE4]) == "<end>a\ufffd"
    assert tokenizer.single(" the") == 260
    with pytest.raises(NotSingleToken, match="2 tokens"):
        tokenizer.single("da")
    with pytest.raises(TokenOutOfRange):
        tokenizer.decode([-1])
    with pytest.raises(TokenizerError, match="no text of Unicode"):
        tokenizer.encode("\ud800")


def test_a_byte_that_the_table_lacks_is_an_error() -> None:
    tokenizer = PieceTokenizer(lambda: {1: b"a", 2: b"bc"}, where="two pieces")
    assert tokenizer.encode("abca").ids == (1, 2, 1)
    with pytest.raises(TokenizerError, match=r"two pieces has no token for the byte b'b'"):
        tokenizer.encode("ab")
    with pytest.raises(TokenizerError, match="two ids for the same bytes"):
        PieceTokenizer(lambda: {1: b"a", 2: b"a"}, where="twins").encode("a")


# -- where vocabularies come from --------------------------------------------------------------------


@pytest.mark.parametrize("lines", ["\n", "\r\n"])
def test_the_vocabulary_beside_the_weights_is_read(lines: str, tmp_path: Path) -> None:
    tokenizer = found(tmp_path, **{VOCABULARY.removesuffix(".txt"): table(lines)})
    assert isinstance(tokenizer, PieceTokenizer)
    assert tokenizer.pieces == TABLE


def test_a_hugging_face_vocabulary_is_read_where_the_tokenizer_is_named(tmp_path: Path) -> None:
    lines = "\n".join([repr(b"<s>"), *(repr(TABLE[token]) for token in sorted(TABLE))])
    assert found(tmp_path, vocab=lines) is None
    assert found(tmp_path, tokenizer_config={"tokenizer_class": "BertTokenizer"}) is None
    config = {
        "tokenizer_class": "Rwkv5Tokenizer",
        "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }
    tokenizer = found(tmp_path, tokenizer_config=config)
    assert isinstance(tokenizer, PieceTokenizer)
    assert tokenizer.pieces == TABLE
    # neither stripped nor split at spaces
    assert tokenizer.encode("a the ").ids == (98, 260, 33)
    assert tokenizer.chat([{"role": "user", "content": "abc"}]) == [258]


@pytest.mark.parametrize("line", ["5 'a' 2", "5 open('x') 1", "'a' 1", "5 '' 0", "1 'b' 1", "5 3 1"])
def test_a_line_that_describes_no_token_is_refused(line: str, tmp_path: Path) -> None:
    tokenizer = found(tmp_path, **{VOCABULARY.removesuffix(".txt"): table() + line})
    assert tokenizer is not None
    with pytest.raises(TokenizerError, match=f"line {len(TABLE) + 1} of"):
        tokenizer.encode("a")


def test_a_vocabulary_that_is_nowhere_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mi_recurrent.world_tokenizer.find_spec", lambda _: None)
    tokenizer = found(tmp_path, tokenizer_config={"tokenizer_class": "RwkvTokenizer"})
    assert tokenizer is not None
    assert tokenizer.eos == 0
    with pytest.raises(TokenizerError, match=r"rwkv_vocab_v20230424\.txt.*pip install --no-deps rwkv"):
        tokenizer.encode("a")


def test_bytes_are_tokens_only_where_a_checkpoint_says_so(tmp_path: Path) -> None:
    path = str(tmp_path / "model.pth")
    torch.save(random_original("rwkv4"), path)
    with pytest.raises(NoTokenizer):
        mi.load(path, allow_pickle=True).run("abc")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByteTokenizer", "encoding": "utf-16-le"}')
    tokenizer = mi.load(str(tmp_path), allow_pickle=True).tokenizer
    assert tokenizer is not None
    assert tokenizer.encode("é🎉").ids == tuple("é🎉".encode("utf-16-le"))
    assert tokenizer.encode("é🎉").offsets == ((0, 1),) * 2 + ((1, 2),) * 4
    assert tokenizer.decode(tokenizer.encode("é🎉").ids) == "é🎉"
    for encoding, said in (("utf-16", "begins every text with a mark"), ("klingon", "no encoding")):
        with pytest.raises(TokenizerError, match=said):
            byte_tokenizer(encoding)


def test_the_file_of_the_pile_models_is_read_from_beside_them_or_from_its_path(tmp_path: Path) -> None:
    theirs = tiny_tokenizers.byte_level()
    folder = tmp_path / "model"
    folder.mkdir()
    theirs.save(str(folder / "20B_tokenizer.json"))
    torch.save(random_original("rwkv4"), folder / "model.pth")
    wanted = tuple(theirs.encode("The capital of France").ids)
    beside = mi.load(str(folder), allow_pickle=True)
    named = mi.load(str(folder / "model.pth"), allow_pickle=True, tokenizer=str(folder / "20B_tokenizer.json"))
    for model in (beside, named):
        assert model.tokenizer is not None
        assert model.tokenizer.encode("The capital of France").ids == wanted
    assert mi.load(str(folder / "model.pth"), allow_pickle=True).tokenizer is None
    other = mi.load(str(folder / "model.pth"), allow_pickle=True, tokenizer=str(folder / "model.pth"))
    with pytest.raises(NoTokenizer, match=r"model\.pth' has no tokenizer"):
        other.run("a")


# -- against others ----------------------------------------------------------------------------------

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("rwkv") is None, reason="the package rwkv is not installed (pip install --no-deps rwkv)"
)


@cache
def both() -> tuple[PieceTokenizer, Any]:
    """Our tokenizer and the package's."""
    spec = importlib.util.find_spec("rwkv")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    sys.path.insert(0, str(folder))  # as a module alone: the package's other parts are not needed
    try:
        theirs = importlib.import_module("rwkv_tokenizer").TRIE_TOKENIZER(str(folder / VOCABULARY))
    finally:
        sys.path.remove(str(folder))
    return world_tokenizer(), theirs


@needs_package
@given(st.text(max_size=60) | st.text(ALPHABET, max_size=60))
def test_the_world_tokenizer_is_that_of_the_package(text: str) -> None:
    ours, theirs = both()
    ids = ours.encode(text).ids
    assert list(ids) == theirs.encode(text)
    assert ours.decode(ids) == text
    for token in ids:
        assert ours.pieces[token] == theirs.idx2token[token]


@needs_package
def test_texts_are_those_ids_that_world_models_were_trained_on() -> None:
    ours, _ = both()
    assert ours.encode("def fibonacci(n):\n    ").ids == (7334, 21676, 41943, 41, 111, 501, 28352)
    assert ours.encode("The capital of France is").ids == (6699, 51128, 4706, 44312, 4600)
    wanted = (33155, 40213, 34, 33, 10464, 11685, 33, 3319, 143, 138, 261)
    assert ours.encode("Hello world! 你好 🎉\n\n").ids == wanted
    assert (ours.size, len(ours.pieces)) == (65530, 65529)


STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside."
CONTINUED: Mapping[str, tuple[str, str]] = {
    "rwkv5-tiny-730K": ("utf-8", " The strength of the stress and the stre"),
    "rwkv5-tiny-730K-eps1e-5": ("utf-8", " The strength of the stress and the stre"),
    "rwkv6-tiny-3m-q5_1": ("utf-16-le", " It was a string of "),
    "rwkv7-tiny-834K": ("utf-8", " the the the the the the the the the the"),
}


@pytest.mark.parametrize("name", CONTINUED)
def test_trained_models_write_on_in_english(name: str) -> None:
    folder, (encoding, wanted) = reference_folder("recurrent", "real", name), CONTINUED[name]
    tokenizer = byte_tokenizer(encoding)
    model = mi.load(str(folder), dtype="float32", tokenizer=tokenizer)
    assert list(tokenizer.encode(STORY).ids) == load_file(folder / "reference.safetensors")["story.ids"].tolist()
    made = model.generate(STORY, max_new_tokens=len(wanted.encode(encoding)), stop_at_eos=False)
    assert made.text[0] == wanted


def test_places_in_a_text_are_found() -> None:
    model = mi.load(str(DATA / "rwkv5-seed0"), tokenizer=PieceTokenizer(lambda: SMALL, where="letters"))
    run = model.run("one two one", mi.capture("blocks.0.hook_resid_post").at(pos=mi.Span("two")))
    assert run["blocks.0.hook_resid_post"].shape == (1, 2, 64)
    assert run.text_tokens == [["one", " ", "tw", "o", " ", "one"]]


SMALL = {1: b"one", 2: b" ", 3: b"tw", 4: b"o"}
