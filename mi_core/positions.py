"""Positions by what stands there: a text, a token, a turn of a chat, the prompt or what is generated.

They are resolved in each row's own text, to indexes of its real tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Final, Literal, TypeVar

from mi_core.errors import ChatTemplateError, SelectorError, SpanError
from mi_core.rows import RowText

__all__ = ["GENERATED", "PROMPT", "Part", "Position", "Span", "Token", "Turn", "position_from_json"]

Pick = Literal["first", "last"]
P = TypeVar("P", bound="Position")  # not typing.Self: beartype takes it in decorated classes only


@dataclass(frozen=True)
class Position(ABC):
    """A place in a prompt, found by its text. ``.first`` and ``.last`` pick one of its tokens."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def pick(self) -> Pick | None:
        """Which one of its tokens is meant; None: all."""

    @abstractmethod
    def find(self, row: RowText, number: int) -> list[int]:
        """Every token of the place in this row, which is row ``number`` of its batch."""

    @property
    def first(self: P) -> P:
        """Its first token only."""
        return replace(self, pick="first")  # type: ignore[call-arg]

    @property
    def last(self: P) -> P:
        """Its last token only."""
        return replace(self, pick="last")  # type: ignore[call-arg]

    @property
    def rows(self) -> int | None:
        """How many rows it is written for, if it names one text for each row."""
        return None

    def to_json(self) -> dict[str, Any]:
        """The position as plain data, with its ``kind``."""
        said = {item.name: getattr(self, item.name) for item in fields(self)}
        return {"kind": self.kind} | {
            name: list(value) if isinstance(value, tuple) else value for name, value in said.items()
        }

    def resolve(self, row: RowText, row_number: int) -> list[int]:
        """Which real tokens of the row are meant?

        Raises:
            SpanError: nothing in the row is meant, or it is not clear what.
            NoTokenizer: the row came as ids, and there is no tokenizer to read them with.
            ChatTemplateError: a turn that the template rewrote.
        """
        try:
            found = self.find(row, row_number)
        except (ChatTemplateError, SpanError) as error:
            if "row" in error.data:
                raise
            raise type(error)(f"{self!r} in row {row_number}: {error}", **error.data, row=row_number) from error
        if not found:
            raise SpanError(f"{self!r} holds no token in row {row_number}", position=self, row=row_number)
        return found if self.pick is None else [found[0 if self.pick == "first" else -1]]

    def _picked(self) -> str:
        return f".{self.pick}" if self.pick else ""


@dataclass(frozen=True, repr=False)
class _OfText(Position):
    """A position that is found by a text, the same in all rows or one for each row."""

    text: str | tuple[str, ...]
    nth: int | None = None
    pick: Pick | None = None

    def __init__(self, text: str | Sequence[str] | Any, nth: int | None = None, pick: Pick | None = None) -> None:
        texts = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, Sequence) else ()
        if not texts or not all(isinstance(each, str) and each for each in texts):
            raise SpanError(f"{type(self).__name__} takes a text, or one text for each row, not {text!r}", text=text)
        object.__setattr__(self, "text", text if isinstance(text, str) else texts)
        object.__setattr__(self, "nth", nth)
        object.__setattr__(self, "pick", pick)

    @property
    def rows(self) -> int | None:
        return None if isinstance(self.text, str) else len(self.text)

    def __repr__(self) -> str:
        text = self.text if isinstance(self.text, str) else list(self.text)
        nth = "" if self.nth is None else f", nth={self.nth}"
        return f"{type(self).__name__}({text!r}{nth}){self._picked()}"

    def of_row(self, number: int) -> str:
        """The text that is looked for in row ``number``."""
        if isinstance(self.text, str):
            return self.text
        if not 0 <= number < len(self.text):
            raise SpanError(
                f"{self!r} has {len(self.text)} texts, one for each row, and there is a row {number}",
                position=self,
                row=number,
            )
        return self.text[number]

    def _choose(self, found: list[list[int]], row: RowText, number: int) -> list[int]:
        if not found:
            raise SpanError(
                f"{self!r} is not in row {number}{self._near(row, number)}. Its tokens: {_shown(row.tokens)}",
                position=self,
                row=number,
                tokens=row.tokens,
            )
        if self.nth is None and len(found) > 1:
            where = "; ".join(f"nth={index}: {_in_context(row, tokens)}" for index, tokens in enumerate(found))
            raise SpanError(
                f"{self!r} is {len(found)} times in row {number}. Choose one with nth=: {where}",
                position=self,
                row=number,
                occurrences=found,
            )
        nth = 0 if self.nth is None else self.nth
        if not -len(found) <= nth < len(found):
            raise SpanError(
                f"{self!r} asks for occurrence {nth}, and row {number} has {len(found)}: "
                + "; ".join(f"nth={index}: {_in_context(row, tokens)}" for index, tokens in enumerate(found)),
                position=self,
                row=number,
                occurrences=found,
            )
        return found[nth]

    def _near(self, row: RowText, number: int) -> str:
        return ""


@dataclass(frozen=True, init=False, repr=False)
class Span(_OfText):
    """Every token that holds a part of this text.

    A list of texts gives one for each row. Where the text occurs several times, ``nth`` chooses, counting from 0.

    >>> Span("France", nth=1).last
    Span('France', nth=1).last

    Raises:
        SpanError: the text is not there, or is there several times; the message shows the tokens, or lists where.
    """

    kind: ClassVar[str] = "span"

    def find(self, row: RowText, number: int) -> list[int]:
        """The tokens of the chosen occurrence."""
        return self._choose(self.occurrences(row, number), row, number)

    def occurrences(self, row: RowText, number: int) -> list[list[int]]:
        """The tokens of every occurrence."""
        text = self.of_row(number)
        starts, start = [], row.text.find(text)
        while start >= 0:
            starts.append(start)
            start = row.text.find(text, start + 1)
        return [_covering(row, start, start + len(text)) for start in starts]

    def _near(self, row: RowText, number: int) -> str:
        start = row.text.lower().find(self.of_row(number).lower())
        return f", but {row.text[start : start + len(self.of_row(number))]!r} is" if start >= 0 else ""


@dataclass(frozen=True, init=False, repr=False)
class Token(_OfText):
    """The one token whose own text this is, its leading space included.

    A list of texts gives one for each row. Where the token occurs several times, ``nth`` chooses, counting from 0.

    >>> Token(" France")
    Token(' France')

    Raises:
        SpanError: no token has this text, or several have.
    """

    kind: ClassVar[str] = "token"

    def find(self, row: RowText, number: int) -> list[int]:
        """The chosen token with this text."""
        text = self.of_row(number)
        return self._choose([[index] for index, token in enumerate(row.tokens) if token == text], row, number)

    def _near(self, row: RowText, number: int) -> str:
        text = self.of_row(number)
        near = next((token for token in row.tokens if token != text and token.strip() == text.strip()), None)
        return f", but {near!r} is" if near is not None else ""


@dataclass(frozen=True, repr=False)
class Turn(Position):
    """The content of message ``index`` of a chat; ``.after``: the template's tokens between it and the next content.

    Negative indexes count from the last message.

    >>> Turn(-1).after.last
    Turn(-1).after.last

    Raises:
        SpanError: the row is no chat, it has no such message, or no token stands there.
        ChatTemplateError: the template does not write the message as it stands.
    """

    kind: ClassVar[str] = "turn"

    index: int
    part: Literal["content", "after"] = "content"
    pick: Pick | None = None

    @property
    def after(self) -> Turn:
        """The template's tokens behind the content: the end of the turn, and what opens the next."""
        return replace(self, part="after")

    def __repr__(self) -> str:
        return f"Turn({self.index}){'.after' if self.part == 'after' else ''}{self._picked()}"

    def find(self, row: RowText, number: int) -> list[int]:
        """The tokens of the content, or those behind it that belong to no content."""
        start, stop = row.turn(self.index)
        found = _covering(row, start, stop)
        if self.part == "after":
            turns = row.turn_count()
            index = self.index % turns
            following = row.turn(index + 1) if index + 1 < turns else (len(row.text), len(row.text))
            inside = {*found, *_covering(row, *following)}
            found = [token for token in _covering(row, stop, following[0]) if token not in inside]
        return found


@dataclass(frozen=True, repr=False)
class Part(Position):
    """The prompt, or what a generation writes behind it: `PROMPT` and `GENERATED`.

    In a run, all tokens are the prompt.

    >>> PROMPT.last, GENERATED.first
    (PROMPT.last, GENERATED.first)

    Raises:
        SelectorError: what is generated, of a run that generates nothing.
    """

    kind: ClassVar[str] = "part"

    name: Literal["prompt", "generated"]
    pick: Pick | None = None

    def __repr__(self) -> str:
        return f"{self.name.upper()}{self._picked()}"

    def find(self, row: RowText, number: int) -> list[int]:
        """Every token of the row, which is a prompt."""
        if self.name == "generated":
            raise SelectorError(
                f"{self!r} is what model.generate writes; a run has its prompt only. Use PROMPT, or generate.",
                selector=self,
            )
        return list(range(len(row.ids)))

    def within(self, prompt: int, count: int) -> list[int]:
        """The positions of this part in a row of ``prompt`` tokens, ``count`` with what was generated."""
        found = list(range(prompt) if self.name == "prompt" else range(prompt, count))
        return found if self.pick is None or not found else [found[0 if self.pick == "first" else -1]]


PROMPT: Final = Part("prompt")
"""Every token of the prompt."""
GENERATED: Final = Part("generated")
"""Every token that a generation writes."""


def position_from_json(data: Mapping[str, Any]) -> Position:
    """The position that `Position.to_json` described.

    >>> position_from_json({"kind": "turn", "index": 0, "part": "after", "pick": "last"})
    Turn(0).after.last
    """
    kinds: dict[str, type[Position]] = {kind.kind: kind for kind in (Span, Token, Turn, Part)}
    if data.get("kind") not in kinds:
        raise SelectorError(f"{data!r} is no position: its kind is none of {', '.join(kinds)}", given=data)
    return kinds[data["kind"]](**{name: value for name, value in data.items() if name != "kind"})


def _covering(row: RowText, start: int, stop: int) -> list[int]:
    """The tokens that hold a part of the code points ``[start, stop)``."""
    return [index for index, (first, last) in enumerate(row.offsets) if first < stop and last > start]


def _in_context(row: RowText, tokens: Sequence[int], around: int = 20) -> str:
    if not tokens:
        return "no token"
    where = f"position {tokens[0]}" if len(tokens) == 1 else f"positions {tokens[0]} to {tokens[-1]}"
    start, stop = row.offsets[tokens[0]][0], row.offsets[tokens[-1]][1]
    before, behind = row.text[max(start - around, 0) : start], row.text[stop : stop + around]
    return f"{where} in {f'{before}[{row.text[start:stop]}]{behind}'!r}"


def _shown(tokens: Sequence[str], most: int = 80) -> str:
    if len(tokens) <= most:
        return repr(list(tokens))
    return f"{list(tokens[: most // 2])!r} ... {list(tokens[-most // 2 :])!r} ({len(tokens)} tokens)"
