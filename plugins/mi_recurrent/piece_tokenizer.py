"""A tokenizer whose vocabulary is byte strings: at each place of a text it takes the longest that fits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mi_core.errors import ChatTemplateError, TokenizerError, TokenOutOfRange
from mi_core.tokenizer import Encoding, single_token

if TYPE_CHECKING:  # imported when a chat is first rendered
    from mi_core.chat_template import ChatTemplate

__all__ = ["PieceTokenizer"]


class PieceTokenizer:
    """Text to ids and back by a table of byte strings, which is read at first use.

    Nothing is added to a text, split or normalised before it.

    Args:
        read: The table, id by id. Every single byte that texts may hold must be in it.
        where: What this is, for messages.
        end: Id and name of the token that ends and begins texts, if there is one; it stands for no bytes.
        encoding: How characters become bytes.
        chat: The chat template, if there is one.

    Raises:
        TokenizerError: a text that is no Unicode, or one with a byte that the table lacks.

    >>> words = {1: b"a", 2: b"b", 3: b"ab", 4: b"abba"}
    >>> tokenizer = PieceTokenizer(lambda: words, where="an example")
    >>> tokenizer.encode("ababba").ids, tokenizer.decode([4, 2])
    ((3, 4), 'abbab')
    """

    def __init__(
        self,
        read: Callable[[], Mapping[int, bytes]],
        *,
        where: str,
        end: tuple[int, str] | None = None,
        encoding: str = "utf-8",
        chat: Callable[[], ChatTemplate] | None = None,
    ) -> None:
        try:
            mark = "".encode(encoding)
        except LookupError as error:
            raise TokenizerError(
                f"{where}: {encoding!r} is no encoding that Python knows.", encoding=encoding
            ) from error
        if mark:
            raise TokenizerError(
                f"{where}: {encoding!r} begins every text with a mark; name the order of its bytes, as in 'utf-16-le'.",
                encoding=encoding,
            )
        self.where, self.end, self.encoding = where, end, encoding
        self._read, self._chat = read, chat

    def __repr__(self) -> str:
        return f"PieceTokenizer({self.where!r})"

    @cached_property
    def pieces(self) -> dict[int, bytes]:
        """The table: id -> bytes."""
        return dict(self._read())

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """The table the other way round."""
        found = {piece: token for token, piece in self.pieces.items()}
        if len(found) < len(self.pieces):
            raise TokenizerError(f"{self.where} has two ids for the same bytes, so what a text becomes is not known.")
        return found

    @cached_property
    def _lengths(self) -> dict[bytes, list[int]]:
        """First two bytes -> how long pieces are that begin so, the longest first."""
        found: dict[bytes, set[int]] = {}
        for piece in self.ids:
            found.setdefault(piece[:2], set()).add(len(piece))
        return {head: sorted(lengths, reverse=True) for head, lengths in found.items()}

    def encode(self, text: str, special: bool = True) -> Encoding:
        """The tokens of a text: nothing is added to it, whatever ``special`` says."""
        try:
            data = text.encode(self.encoding)
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"{text!r} cannot be encoded: it is no text of Unicode characters", text=text
            ) from error
        tokens: list[int] = []
        bounds = [0]
        while bounds[-1] < len(data):
            piece = self._longest(data, bounds[-1])
            tokens.append(self.ids[piece])
            bounds.append(bounds[-1] + len(piece))
        return Encoding(tuple(tokens), tuple(self._covered(text, bounds)), (False,) * len(tokens))

    def _longest(self, data: bytes, at: int) -> bytes:
        for length in self._lengths.get(data[at : at + 2], ()):
            if (piece := data[at : at + length]) in self.ids and len(piece) == length:
                return piece
        if (piece := data[at : at + 1]) not in self.ids:
            raise TokenizerError(f"{self.where} has no token for the byte {piece!r} of the text.", byte=piece)
        return piece

    def _covered(self, text: str, bounds: Sequence[int]) -> list[tuple[int, int]]:
        """The code points that each token covers, also those of which it holds a part."""
        characters = [number for number, sign in enumerate(text) for _ in sign.encode(self.encoding)]
        return [(characters[begin], characters[stop - 1] + 1) for begin, stop in pairwise(bounds)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids, the end of text by name; ids that are no token are left out.

        Bytes that make no character are ``\ufffd``.
        """
        parts: list[bytes] = []
        for token in ids:
            if token < 0:
                raise TokenOutOfRange(f"{token} is no token id; this tokenizer has {self.size}", id=token)
            named = self.end is not None and token == self.end[0]
            parts.append(self.text(token).encode(self.encoding) if named else self.pieces.get(token, b""))
        return b"".join(parts).decode(self.encoding, errors="replace")

    def text(self, id: int) -> str:  # noqa: A002 - the field's word
        """One token as shown to people, lone bytes as ``<0xE2>``; ``<17>`` for an id that is no token."""
        if self.end is not None and id == self.end[0]:
            return self.end[1]
        if id not in self.pieces:
            return f"<{id}>"
        text = self.pieces[id].decode("utf-8", errors="surrogateescape")
        return re.sub("[\udc80-\udcff]", lambda lone: f"<0x{ord(lone[0]) - 0xDC00:02X}>", text)

    @cached_property
    def size(self) -> int:
        """Ids that the tokenizer has, up to the largest."""
        return max(self.pieces) + 1

    @property
    def bos(self) -> int | None:
        """The id that begins a text where one is wanted; none is added."""
        return self.eos

    @property
    def eos(self) -> int | None:
        """The id that ends a text."""
        return None if self.end is None else self.end[0]

    @property
    def pad(self) -> int | None:
        """None: no id fills rows up."""
        return None

    def single(self, text: str) -> int:
        """The one token that is this text; `NotSingleToken`, listing the pieces, where it is several."""
        return single_token(self, text)

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **template: Any) -> str:
        """The conversation as the chat template writes it."""
        if self._chat is None:
            raise ChatTemplateError(f"{self.where} has no chat template: give the prompt as a text.")
        return self._chat().render(messages, add_generation_prompt, **template)

    def chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **template: Any
    ) -> list[int]:
        """The ids of a conversation."""
        return list(self.encode(self.render(messages, add_generation_prompt, **template)).ids)
