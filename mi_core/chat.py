"""A conversation as an input, and where each message's content stands in what the template rendered."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mi_core.errors import ChatTemplateError, EmptyInput, InputError

__all__ = ["Chat", "turn_span"]


class Chat:
    """Messages that become a prompt through the checkpoint's own chat template.

    ``template`` are variables for the template (``tools=``, ``enable_thinking=``, ...); ``chat_template=`` chooses one
    of several templates by name, or is a template itself. A chat is a value: it keeps its own copy of the messages.

    >>> Chat([{"role": "user", "content": "How are you?"}])
    Chat([{'role': 'user', 'content': 'How are you?'}])

    Raises:
        InputError: messages that are no mappings with a role.
        EmptyInput: no message at all.
    """

    __slots__ = ("_add_generation_prompt", "_messages", "_template")

    def __init__(
        self, messages: Sequence[Mapping[str, Any]] | Any, add_generation_prompt: bool = True, **template: Any
    ) -> None:
        if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
            raise InputError(f"a chat is a list of messages, not {messages!r}; give [{{'role': ..., 'content': ...}}]")
        if not messages:
            raise EmptyInput("a chat needs at least one message, and got an empty list")
        for index, message in enumerate(messages):
            if not isinstance(message, Mapping) or "role" not in message:
                raise InputError(
                    f"message {index} of the chat is {message!r}; a message is {{'role': ..., 'content': ...}}",
                    index=index,
                )
        self._messages = tuple(copy.deepcopy(dict(message)) for message in messages)
        self._add_generation_prompt = add_generation_prompt
        self._template = copy.deepcopy(template)

    @property
    def messages(self) -> tuple[dict[str, Any], ...]:
        """The messages (a copy)."""
        return copy.deepcopy(self._messages)

    @property
    def add_generation_prompt(self) -> bool:
        """Whether the prompt ends where the assistant's answer begins."""
        return self._add_generation_prompt

    @property
    def template(self) -> dict[str, Any]:
        """The variables for the template (a copy)."""
        return copy.deepcopy(self._template)

    def __len__(self) -> int:
        return len(self._messages)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chat) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_json(), sort_keys=True, default=repr))

    def __repr__(self) -> str:
        said = [repr(list(self._messages))]
        if not self._add_generation_prompt:
            said.append("add_generation_prompt=False")
        said += [f"{name}={value!r}" for name, value in self._template.items()]
        return f"Chat({', '.join(said)})"

    def to_json(self) -> dict[str, Any]:
        """The chat as plain data."""
        return {
            "messages": list(self.messages),
            "add_generation_prompt": self._add_generation_prompt,
            "template": self.template,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Chat:
        """The chat that `to_json` described."""
        return cls(data["messages"], data["add_generation_prompt"], **data["template"])


def turn_span(render: Callable[..., str], chat: Chat, index: int, text: str) -> tuple[int, int]:
    """Where does the content of message ``index`` stand in ``text``, which ``render`` made of the chat?

    The chat is rendered once more with a marker in place of that content. If the template writes contents as they
    stand, the two texts differ in that place only; else there is no answer, and none is guessed.

    Raises:
        ChatTemplateError: the template leaves the content out, repeats it, trims it or otherwise rewrites it, or the
            message has no single text.
    """
    messages = chat.messages
    content = _content(messages[index], index)
    marker = _marker(text)
    marked = render([*messages[:index], _with_content(messages[index], marker), *messages[index + 1 :]],
                    chat.add_generation_prompt, **chat.template)  # fmt: skip
    count = marked.count(marker)
    if count == 1:
        before, _, behind = marked.partition(marker)
        if before + content + behind == text:
            return len(before), len(before) + len(content)
    how = {0: "does not write", 1: "rewrites"}.get(count, f"writes {count} times")
    hint = " Strip the whitespace around the content." if content != content.strip() and count == 1 else ""
    raise ChatTemplateError(
        f"the chat template {how} the content of message {index} ({_short(content)}), so Turn({index}) has no exact"
        f" place in the prompt.{hint or ' Use Span(text) on what the template wrote.'}",
        turn=index,
        content=content,
        text=text,
    )


def _content(message: Mapping[str, Any], index: int) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = [part.get("text") for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    raise ChatTemplateError(
        f"message {index} of the chat has no single text as its content but {content!r}; Turn({index}) needs one",
        turn=index,
    )


def _with_content(message: Mapping[str, Any], text: str) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return {**message, "content": text}
    return {**message, "content": [{**message["content"][0], "text": text}]}


def _marker(text: str) -> str:
    number = 0
    while (marker := f"mQ{number}turnQm") in text:
        number += 1
    return marker


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
