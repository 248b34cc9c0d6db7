"""What a tokenizer is, and how the one of a checkpoint is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from mi_core import plugins
from mi_core.config import Config
from mi_core.errors import NoTokenizer, NotSingleToken, PluginError
from mi_core.files import Files

__all__ = [
    "TOKENIZER_FILES",
    "Encoding",
    "GivesIds",
    "RendersChats",
    "Tokenizer",
    "find_tokenizer",
    "ids_of",
    "no_tokenizer",
    "single_token",
]

TOKENIZER_FILES = ("tokenizer.json",)
"""The files that hold a tokenizer which the core reads by itself."""


@dataclass(frozen=True)
class Encoding:
    """A text as tokens."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    """Of each token: its first code point of the text and the one behind its last.

    A token that holds part of a character covers that character; one that stands for no text (BOS) covers nothing.
    """
    special: tuple[bool, ...]
    """Whether each token is a control token rather than text."""


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back, exactly as the checkpoint was trained."""

    @property
    def size(self) -> int:
        """Ids that the tokenizer has, added tokens included."""
        ...

    @property
    def bos(self) -> int | None:
        """The id that begins a text, if the checkpoint names one."""
        ...

    @property
    def eos(self) -> int | None:
        """The id that ends a text, if the checkpoint names one."""
        ...

    @property
    def pad(self) -> int | None:
        """The id that fills a row up, if the checkpoint names one."""
        ...

    def encode(self, text: str, special: bool = True) -> Encoding:
        """The tokens of a text; with ``special``, whatever BOS or EOS the checkpoint adds to a text is added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids, control tokens by name."""
        ...

    def text(self, id: int) -> str:  # noqa: A002 - the field's word
        """One token as shown to people: with its leading space, control tokens by name, lone bytes as ``<0xE2>``."""
        ...

    def single(self, text: str) -> int:
        """The one token that is this text; `NotSingleToken`, listing the pieces, where it is several."""
        ...

    def chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **template: Any
    ) -> list[int]:
        """The ids of a conversation in the checkpoint's chat template; no BOS beside the template's own."""
        ...


@runtime_checkable
class RendersChats(Protocol):
    """A tokenizer whose chat template gives text before it gives ids; `Turn` positions need that."""

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **template: Any) -> str:
        """The conversation as text: ``chat`` is its encoding without anything added."""
        ...


@runtime_checkable
class GivesIds(Protocol):
    """A tokenizer that gives the ids of a text sooner than what else is known of them."""

    def ids(self, text: str) -> Sequence[int]:
        """The ids that ``encode`` gives."""
        ...


def ids_of(tokenizer: Tokenizer, text: str) -> Sequence[int]:
    """The ids of a text, where nothing else of it is wanted."""
    return tokenizer.ids(text) if isinstance(tokenizer, GivesIds) else tokenizer.encode(text).ids


def single_token(tokenizer: Tokenizer, text: str, unknown: int | None = None) -> int:
    """Which one token is this text?

    The token whose own text it is; else the one token that the tokenizer makes of it (it may lower its case, or put a
    space before it).

    Raises:
        NotSingleToken: the text is several tokens or none, or the vocabulary does not know it.
    """
    found = tokenizer.encode(text, special=False).ids
    if len(found) == 1 and tokenizer.text(found[0]) == text:
        return found[0]
    if text.startswith(" "):  # a tokenizer that puts a space before every text makes the token from the bare word
        bare = tokenizer.encode(text[1:], special=False).ids
        if len(bare) == 1 and bare[0] != unknown and tokenizer.text(bare[0]) == text:
            return bare[0]
    if len(found) == 1 and found[0] != unknown:
        return found[0]
    raise _not_single(tokenizer, text, found, unknown)


def _not_single(tokenizer: Tokenizer, text: str, found: Sequence[int], unknown: int | None) -> NotSingleToken:
    pieces = [tokenizer.text(piece) for piece in found]
    if not found:
        seen = "no token at all"
    elif unknown in found:
        seen = f"not in the vocabulary: it becomes {pieces!r}"
    else:
        seen = f"{len(found)} tokens: {pieces!r}"
    hint = "Give a text that is one token, or an id."
    if text and not text.startswith(" "):
        spaced = tokenizer.encode(" " + text, special=False).ids
        if len(spaced) == 1 and spaced[0] != unknown:
            hint = f"{' ' + text!r}, with a leading space, is one token."
    return NotSingleToken(f"{text!r} is {seen}. {hint}", text=text, pieces=pieces, ids=list(found))


def no_tokenizer(where: str) -> NoTokenizer:
    """The error of a model without a tokenizer that is asked for text."""
    broken = "".join(f" {error}" for error in plugins.report(["mi_core.tokenizers"]))
    return NoTokenizer(
        f"{where} has no tokenizer: looked for {', '.join(TOKENIZER_FILES)} and asked the plugins of mi_core.tokenizers"
        f" (tokenizer.model and vocab.json must be saved as tokenizer.json first).{broken}"
        " Give token ids instead of text, or a tokenizer with load(..., tokenizer=).",
        where=where,
        files=TOKENIZER_FILES,
    )


def find_tokenizer(files: Files, config: Config) -> Tokenizer | None:
    """Which tokenizer does a checkpoint have?

    Its tokenizer.json; else what the first plugin of ``mi_core.tokenizers`` makes of the files; else None: the model
    takes ids only, and `no_tokenizer` is its answer to a text. A plugin that cannot be imported is passed over, and
    `no_tokenizer` reports it.

    Raises:
        BrokenPlugin: a plugin failed while it read these files.
    """
    if files.has("tokenizer.json"):
        from mi_core.json_tokenizer import JsonTokenizer  # it builds on this module

        return JsonTokenizer(files)
    for name in plugins.names("mi_core.tokenizers"):
        try:
            plugin = plugins.plugin("mi_core.tokenizers", name)
        except PluginError:
            continue
        found = plugin.call("mi_tokenizer", files=files, config=config)
        if found is not None:
            return found  # type: ignore[no-any-return]
    return None
