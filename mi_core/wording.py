"""The text of a row while its tokens come: whole characters, pieces for a stream, and stop strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mi_core.errors import InputError
from mi_core.prompts import Prompts
from mi_core.tokenizer import Tokenizer

__all__ = ["Listener", "Talk", "Wording"]

Listener = Callable[[int, str, int], object]
"""Called for each new token with its row, the text that can be said by now, and its id."""

LONGEST = 8
"""Tokens that one character can be spread over, at most."""


class Wording:
    """What a row says behind its prompt."""

    def __init__(self, tokenizer: Tokenizer | None, prompt: Sequence[int], stops: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.stops = tuple(stops)
        # a decoder sees the end of the prompt: the first token of a text may lose its space
        self._ids = list(prompt[-LONGEST:])
        self._before, self._read = 0, len(self._ids)
        self._text = ""
        self._given = 0
        self.stop: str | None = None
        """The stop string that was found."""

    @property
    def text(self) -> str:
        """Everything said so far, up to the stop string."""
        return self._text if self.stop is None else self._text[: self._text.index(self.stop)]

    def add(self, token: int) -> None:
        """Take one more token."""
        self._ids.append(token)
        if self.tokenizer is None:
            self._text += f"<{token}>"
            return
        piece = self._added()
        if piece.endswith("\ufffd") and len(self._ids) - self._read < LONGEST:
            return  # a character whose last bytes are still to come
        self._take(piece)
        found = [(self._text.index(stop), stop) for stop in self.stops if stop in self._text]
        if found:
            self.stop = min(found)[1]

    def end(self) -> None:
        """Nothing more comes: what was held back is said as it stands."""
        if self.stop is None and self._read < len(self._ids) and self.tokenizer is not None:
            self._take(self._added())

    def _added(self) -> str:
        assert self.tokenizer is not None
        context = self.tokenizer.decode(self._ids[self._before : self._read]) if self._read else ""
        return self.tokenizer.decode(self._ids[self._before :])[len(context) :]

    def _take(self, piece: str) -> None:
        self._text += piece
        self._before, self._read = self._read, len(self._ids)

    def piece(self, last: bool) -> str:
        """What can be said that was not given yet; what may begin a stop string waits, unless nothing more comes."""
        text = self.text
        if not last and self.stops:
            # the longest end of the text that is the beginning of a stop string
            longest = min(len(text), max(map(len, self.stops)) - 1)
            held = (n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in self.stops))
            text = text[: len(text) - next(held, 0)]
        piece = text[self._given :]
        self._given = max(self._given, len(text))
        return piece


class Talk:
    """The text of every row while it comes, and who listens."""

    def __init__(
        self, reader: Tokenizer | None, prompts: Prompts, stops: Sequence[str], stream: bool | Listener | None
    ) -> None:
        if not all(isinstance(stop, str) and stop for stop in stops):
            raise InputError(f"stop={stops!r}: give a text, or several, none of them empty.", stop=stops)
        if stream not in (None, True, False) and not callable(stream):
            raise InputError(f"stream={stream!r}: give True, or a function of row, text and id.", stream=stream)
        self.has_text = reader is not None
        self.rows = [Wording(reader, row.ids, stops) for row in prompts.rows]
        self.stream = stream

    def hear(self, row: int, token: int, *, said: bool) -> bool:
        """Take a token of a row (``said``: it is no end-of-text token); whether a stop string was found."""
        if said:
            self.rows[row].add(token)
        return self.rows[row].stop is not None

    def tell(self, row: int, token: int, *, last: bool) -> None:
        """Give the listener what can be said by now."""
        wording = self.rows[row]
        if last:
            wording.end()
        if callable(self.stream):
            self.stream(row, wording.piece(last), token)
        elif self.stream and len(self.rows) == 1:
            print(wording.piece(last), end="\n" if last else "", flush=True)
        elif self.stream and last:
            print(f"{row}: {wording.piece(last)}", flush=True)
