"""Which characters of a text each token covers, and which token a character is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mi_core.errors import SpanError
from mi_core.positions import Position, Span
from mi_core.rows import RowText
from mi_core.tokenizer import Tokenizer

if TYPE_CHECKING:
    from mi_core.run import Run

__all__ = ["TokenMap"]

Characters = tuple[int, int]
"""From the first code point, up to and without the last."""


@dataclass(frozen=True)
class TokenMap:
    """The tokens of one row and where each stands in its text, counted in code points.

    >>> import mi_core as mi
    >>> row = TokenMap.of_text(mi.load("tiny-world").tokenizer, "The capital of France is")
    >>> row.token_at(4), row.characters(2), row.tokens_in(12, 21)
    (2, (3, 11), [3, 4])
    """

    row: RowText
    number: int = 0
    """The row's number, for selectors that name a text for each row."""

    @classmethod
    def of(cls, run: Run, row: int = 0) -> TokenMap:
        """Of a row of a run."""
        return cls(run._prompts.rows[row], row)

    @classmethod
    def of_text(cls, tokenizer: Tokenizer, text: str) -> TokenMap:
        """Of a text that is not run."""
        encoding = tokenizer.encode(text)
        return cls(RowText(tuple(encoding.ids), (text, tuple(encoding.offsets)), tokenizer=tokenizer))

    @property
    def text(self) -> str:
        """The row's text."""
        return self.row.text

    @property
    def tokens(self) -> list[str]:
        """The text of each token."""
        return self.row.tokens

    def __len__(self) -> int:
        return len(self.row.ids)

    def characters(self, token: int) -> Characters:
        """What a token covers; nothing (``start == stop``) of a control token that is not in the text."""
        self._check(token, len(self), "tokens")
        return self.row.offsets[token]

    def token_at(self, character: int) -> int:
        """The first token that covers a character.

        Raises:
            SpanError: no such character, or no token covers it (some tokenizers drop spaces): see :meth:`nearest`.
        """
        self._check(character, len(self.text), "characters")
        for token, (start, stop) in enumerate(self.row.offsets):
            if start <= character < stop:
                return token
        near = self.nearest(character)
        raise SpanError(
            f"no token covers character {character} ({self.text[character]!r}) of {self.text!r}: take "
            f"nearest({character}), which is token {near} ({self.tokens[near]!r})."
        )

    def nearest(self, character: int) -> int:
        """The token that covers a character, else the one whose middle is nearest; control tokens do not count."""
        self._check(character, len(self.text), "characters")
        there = [(token, span) for token, span in enumerate(self.row.offsets) if span[0] < span[1]]

        def distance(found: tuple[int, Characters]) -> float:
            start, stop = found[1]
            return 0.0 if start <= character < stop else abs((start + stop) / 2 - character - 0.5)

        return min(there, key=distance)[0]

    def tokens_in(self, start: int, stop: int) -> list[int]:
        """The tokens that cover a character of ``[start, stop)``."""
        return [token for token, (low, high) in enumerate(self.row.offsets) if max(low, start) < min(high, stop)]

    def labels(self, spans: Mapping[str, str | Position | Characters]) -> list[str]:
        """The name of the first span that overlaps each token; ``"other"`` where there is none.

        A span is a text (everywhere it occurs), a position selector such as ``mi.Span("France", nth=1)``, or a range
        of characters. The last token of each occurrence is called ``"NAME_final"``: that is where a causal model has
        read all of it.

        >>> import mi_core as mi
        >>> row = TokenMap.of_text(mi.load("tiny-world").tokenizer, "The capital of France is")
        >>> row.labels({"relation": "capital of", "subject": "France"})
        ['other', 'other', 'relation', 'relation_final', 'subject_final', 'other']
        """
        names = ["other"] * len(self)
        for name, span in spans.items():
            for tokens in self._occurrences(span):
                free = [token for token in tokens if names[token] == "other"]
                for token in free:
                    names[token] = f"{name}_final" if token == tokens[-1] else name
        return names

    def _occurrences(self, span: str | Position | Characters) -> list[list[int]]:
        """The tokens of each place that a span stands for."""
        if isinstance(span, str):
            return Span(span).occurrences(self.row, self.number) or [Span(span).find(self.row, self.number)]
        if isinstance(span, Position):
            return [span.find(self.row, self.number)]
        found = self.tokens_in(*span)
        if not found:
            raise SpanError(f"{span} covers no token of {self.text!r} ({len(self.text)} characters).")
        return [found]

    def _check(self, index: int, size: int, what: str) -> None:
        if not 0 <= index < size:
            raise SpanError(f"there is no {what[:-1]} {index} in {self.text!r}: it has {size} {what}.")
