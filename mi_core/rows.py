"""One row of a batch as text: its real tokens, where each stands in the text, the turns of a chat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from mi_core.chat import Chat, turn_span
from mi_core.errors import ChatTemplateError, NoTokenizer, SpanError
from mi_core.tokenizer import RendersChats, Tokenizer, no_tokenizer

__all__ = ["RowText", "located"]


@dataclass(frozen=True)
class RowText:
    """The real tokens of one row, and the text that they are.

    A row that came as ids gets its text from the tokenizer, when it is first asked for it.
    """

    ids: tuple[int, ...]
    written: tuple[str, tuple[tuple[int, int], ...]] | None = field(default=None, repr=False)
    """Of a row that came as text: the text (a chat's is what its template rendered) and what each token covers."""
    special: tuple[bool, ...] | None = field(default=None, repr=False)
    """Whether each token is a control token; None of a row that came as ids."""
    chat: Chat | None = None
    tokenizer: Tokenizer | Callable[[], Tokenizer | None] | None = field(default=None, repr=False, compare=False)
    names: tuple[str, ...] | None = field(default=None, repr=False, compare=False)
    """The texts of the tokens, of a row that was saved."""
    spans: tuple[tuple[int, int] | None, ...] | None = field(default=None, repr=False, compare=False)
    """The turns, of a row that was saved."""

    def reader(self) -> Tokenizer:
        """The tokenizer of this row; `NoTokenizer` if there is none."""
        return reader_of(self.tokenizer)

    @cached_property
    def tokens(self) -> list[str]:
        """The text of each token; ``<17>`` where there is no tokenizer."""
        if self.names is not None:
            return list(self.names)
        try:
            reader = self.reader()
        except NoTokenizer:
            return [f"<{token}>" for token in self.ids]
        return [reader.text(token) if 0 <= token < reader.size else f"<{token}>" for token in self.ids]

    def text_of(self, token: int) -> str:
        """The text of a token id, of this row or not; ``<17>`` where there is no tokenizer."""
        try:
            reader = self.reader()
        except NoTokenizer:
            known = dict(zip(self.ids, self.tokens, strict=True))
            return known.get(token, f"<{token}>")
        return reader.text(token) if 0 <= token < reader.size else f"<{token}>"

    @cached_property
    def _located(self) -> tuple[str, tuple[tuple[int, int], ...]]:
        if self.written is not None:
            return self.written
        return located(self.reader(), self.ids)

    @property
    def text(self) -> str:
        """The row's text; `NoTokenizer` if it came as ids and there is none."""
        return self._located[0]

    @property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """The code points of `text` that each token covers."""
        return self._located[1]

    def cut(self, count: int) -> RowText:
        """The row of the first ``count`` tokens: the prompt, of a row that was generated."""
        if count >= len(self.ids):
            return self
        written = None
        if self.written is not None:
            text, offsets = self.written
            written = text[: max((stop for _, stop in offsets[:count]), default=0)], offsets[:count]
        special = None if self.special is None else self.special[:count]
        names = None if self.names is None else self.names[:count]
        return replace(self, ids=self.ids[:count], written=written, special=special, names=names)

    def turn_count(self) -> int:
        """Messages of the chat that this row is; `SpanError` if it is none."""
        if self.spans is not None:
            return len(self.spans)
        if self.chat is not None:
            return len(self.chat)
        raise SpanError("this row is no chat, so it has no turns; give mi.Chat(messages)")

    def turn(self, index: int) -> tuple[int, int]:
        """Where the content of message ``index`` stands in `text`.

        Raises:
            SpanError: the row is no chat, or has no such message.
            ChatTemplateError: the template does not write the message as it stands.
        """
        count = self.turn_count()
        if not -count <= index < count:
            raise SpanError(f"the chat has {count} messages, there is no turn {index}", turn=index, count=count)
        return self._turns(index % count)

    def _turns(self, index: int) -> tuple[int, int]:
        if self.spans is not None:
            span = self.spans[index]
            if span is None:
                raise ChatTemplateError(f"the chat template did not write message {index} as it stands", turn=index)
            return span
        reader = self.reader()
        if self.chat is None or not isinstance(reader, RendersChats):
            raise ChatTemplateError("this tokenizer gives a chat's ids without its text: Turn cannot be found")
        return turn_span(reader.render, self.chat, index, self.text)

    @cached_property
    def turns(self) -> tuple[tuple[int, int] | None, ...] | None:
        """The span of each message's content, None where the template rewrote it; None of a row that is no chat."""
        if self.spans is not None or self.chat is None:
            return self.spans
        found: list[tuple[int, int] | None] = []
        for index in range(len(self.chat.messages)):
            try:
                found.append(self._turns(index))
            except ChatTemplateError:
                found.append(None)
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Everything that can be asked of the row without its tokenizer."""
        try:
            text, offsets = self._located
        except NoTokenizer:
            named = {} if self.names is None else {"tokens": list(self.names)}
            return {"ids": list(self.ids)} | named
        turns = self.turns
        return {
            "ids": list(self.ids),
            "text": text,
            "offsets": [list(pair) for pair in offsets],
            "special": None if self.special is None else list(self.special),
            "tokens": self.tokens,
            "turns": None if turns is None else [None if span is None else list(span) for span in turns],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RowText:
        """The row that `to_json` described."""
        ids = tuple(data["ids"])
        if "text" not in data:
            return cls(ids, names=tuple(data["tokens"]) if "tokens" in data else None)
        offsets = tuple((start, stop) for start, stop in data["offsets"])
        turns = data["turns"]
        return cls(
            ids,
            written=(data["text"], offsets),
            special=None if data["special"] is None else tuple(data["special"]),
            names=tuple(data["tokens"]),
            spans=None if turns is None else tuple(None if span is None else (span[0], span[1]) for span in turns),
        )


def reader_of(tokenizer: Tokenizer | Callable[[], Tokenizer | None] | None) -> Tokenizer:
    """The tokenizer, of a tokenizer or of a function that finds one; `NoTokenizer` if there is none."""
    found: Any = tokenizer
    if not hasattr(type(tokenizer), "encode") and callable(tokenizer):
        found = tokenizer()
    if found is None:
        raise no_tokenizer("this model")
    return found  # type: ignore[no-any-return]


def located(tokenizer: Tokenizer, ids: tuple[int, ...]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Text and offsets of ids, token by token: each token covers what it adds to the text.

    A decoder sees the token before the one that it decodes (the first token of a text may lose its space), and a
    character whose bytes are spread over several tokens is covered by each of them.
    """
    text = ""
    offsets: list[tuple[int, int]] = []
    before, start = 0, 0  # ids[before:start] is context, already in text; ids[start:] is not
    while start < len(ids):
        context = tokenizer.decode(list(ids[before:start])) if start > before else ""
        reach = [0]
        for stop in range(start + 1, len(ids) + 1):
            added = tokenizer.decode(list(ids[before:stop]))[len(context) :]
            whole = added.rstrip("\ufffd")
            reach.append(len(whole))
            if whole == added or stop == len(ids) or stop - start == 8:  # a character has four bytes at most
                break
        reach[-1] = len(added)
        for step in range(1, len(reach)):
            first = min(reach[step - 1], len(added))
            partial = step < len(reach) - 1
            last = min(max(reach[step], first) + partial, len(added))
            offsets.append((len(text) + first, len(text) + last))
        text += added
        before, start = start, start + len(reach) - 1
    return text, tuple(offsets)
