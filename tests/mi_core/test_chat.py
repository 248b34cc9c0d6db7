from __future__ import annotations

from typing import Any

import pytest
import tiny_tokenizers
from hypothesis import given
from hypothesis import strategies as st

from mi_core.chat import Chat, turn_span
from mi_core.chat_template import ChatTemplate
from mi_core.errors import ChatTemplateError, EmptyInput, InputError

CONTENT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def span(template: str, chat: Chat, index: int) -> tuple[int, int]:
    def render(messages: Any, add_generation_prompt: bool, **variables: Any) -> str:
        return ChatTemplate({"default": template}, {"bos_token": "<s>", "eos_token": "</s>"}, "here").render(
            messages, add_generation_prompt, **variables
        )

    return turn_span(render, chat, index, render(chat.messages, chat.add_generation_prompt, **chat.template))


def said(*contents: Any) -> Chat:
    roles = ("user", "assistant")
    return Chat([{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)])


@given(contents=st.lists(CONTENT, min_size=1, max_size=4), prompt=st.booleans())
def test_every_content_is_found_where_a_template_writes_it_as_it_stands(contents: list[str], prompt: bool) -> None:
    chat = Chat(said(*contents).messages, prompt)
    at = 0
    for index, content in enumerate(contents):
        head = f"<|im_start|>{chat.messages[index]['role']}\n"
        assert span(tiny_tokenizers.CHATML, chat, index) == (at + len(head), at + len(head) + len(content))
        at += len(head) + len(content) + len("<|im_end|>\n")


@given(contents=st.lists(CONTENT, min_size=1, max_size=3))
def test_a_trimming_template_is_refused_for_exactly_the_contents_that_it_changes(contents: list[str]) -> None:
    chat = said(*contents)
    for index, content in enumerate(contents):
        if content == content.strip():
            start, stop = span(tiny_tokenizers.LLAMA_3, chat, index)
            assert stop - start == len(content)
        else:
            with pytest.raises(ChatTemplateError, match="rewrites the content of message"):
                span(tiny_tokenizers.LLAMA_3, chat, index)


def test_equal_contents_are_told_apart() -> None:
    first, second = (span(tiny_tokenizers.CHATML, said("same", "same"), index) for index in (0, 1))
    assert first[1] < second[0]


def test_a_template_that_strips_thinking_is_refused_where_it_did() -> None:
    chat = said("question", "<think>hm</think>answer")
    assert span(tiny_tokenizers.THINKING, chat, 0) == (17, 25)
    with pytest.raises(ChatTemplateError, match=r"rewrites the content of message 1 .* Turn\(1\) has no exact"):
        span(tiny_tokenizers.THINKING, chat, 1)


@pytest.mark.parametrize(
    ("template", "how"),
    [
        ("{{ messages[0].role }}", "does not write"),
        ("{{ messages[0].content | upper }}", "does not write"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "writes 2 times"),
        ("{{ messages[0].content }}{{ messages[0].content | length }}", "rewrites"),
    ],
)
def test_other_rewritings_are_refused(template: str, how: str) -> None:
    with pytest.raises(ChatTemplateError, match=how):
        span(template, said("hello"), 0)


def test_a_marker_that_the_chat_holds_is_not_used() -> None:
    start, stop = span(tiny_tokenizers.CHATML, said("hello", "mQ0turnQm mQ1turnQm"), 0)
    assert stop - start == len("hello")


def test_a_content_of_one_text_part_is_found_and_any_other_refused() -> None:
    template = "{% for m in messages %}<{{ m.content[0].text }}>{% endfor %}"
    assert span(template, said([{"type": "text", "text": "hello"}]), 0) == (1, 6)
    with pytest.raises(ChatTemplateError, match="has no single text"):
        span("x", said([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), 0)
    with pytest.raises(ChatTemplateError, match="has no single text"):
        span("x", said([{"type": "image"}, {"type": "text", "text": "b"}]), 0)
    with pytest.raises(ChatTemplateError, match="has no single text"):
        span("x", said(None), 0)


def test_a_chat_is_a_value() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    chat = Chat(messages, False, enable_thinking=True)
    same = Chat.from_json(chat.to_json())
    messages[0]["content"][0]["text"] = "changed"
    chat.messages[0]["role"] = "changed"
    chat.template["enable_thinking"] = False
    assert chat == same
    assert hash(chat) == hash(same)
    assert chat != Chat(same.messages, True, enable_thinking=True)
    assert chat != Chat(same.messages, False)
    assert len(chat) == 1
    assert repr(chat) == (
        "Chat([{'role': 'user', 'content': [{'type': 'text', 'text': 'hello'}]}],"
        " add_generation_prompt=False, enable_thinking=True)"
    )


def test_messages_that_are_none_are_refused() -> None:
    with pytest.raises(EmptyInput, match="at least one message"):
        Chat([])
    with pytest.raises(InputError, match="message 1 of the chat is 'x'"):
        Chat([{"role": "user", "content": ""}, "x"])
    with pytest.raises(InputError, match="message 0 of the chat"):
        Chat([{"content": "no role"}])
    for lone in ("hello", {"role": "user", "content": "x"}, 3):
        with pytest.raises(InputError, match="a chat is a list of messages"):
            Chat(lone)
