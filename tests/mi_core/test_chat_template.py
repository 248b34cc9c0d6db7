from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import tiny_tokenizers
from transformers import PreTrainedTokenizerFast

from mi_core.chat_template import ChatTemplate
from mi_core.errors import ChatTemplateError
from mi_core.files import Files
from mi_core.json_tokenizer import JsonTokenizer

ASK = {"role": "user", "content": "How are you?"}
CHAT = [
    {"role": "user", "content": "  hello world "},
    {"role": "assistant", "content": "The capital\n"},
    {"role": "user", "content": "x", "name": None},
]
BARE = (
    "{%- set state = namespace(seen=0) -%}{% for message in messages %}{% if message.role == 'system' %}{% continue %}"
    "{% endif %}{% set state.seen = state.seen + 1 %}{{ message | tojson }}|{{ dict(a=1) | tojson(indent=2) }}\n"
    "    {% if tools %}{{ tools | tojson }}{% endif %}\n{% endfor %}{{ state.seen }}{{ documents is none }}"
    "{{ messages[-1].get('reasoning_content', '-') }}{{ strftime_now('%Y') }}{{ '<é>' | tojson }}"
)
TEMPLATES = {
    "llama_3": tiny_tokenizers.LLAMA_3,
    "chatml": tiny_tokenizers.CHATML,
    "alternating": tiny_tokenizers.ALTERNATING,
    "thinking": tiny_tokenizers.THINKING,
    "bare": BARE,
}


def both(folder: Path, jinja: str | None = None, **settings: Any) -> tuple[JsonTokenizer, PreTrainedTokenizerFast]:
    tiny_tokenizers.save(folder, tiny_tokenizers.byte_level(), jinja=jinja, **settings)
    return JsonTokenizer(Files(folder)), PreTrainedTokenizerFast.from_pretrained(folder)


def template(source: str) -> ChatTemplate:
    return ChatTemplate({"default": source}, {"bos_token": "<s>"}, "here")


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
def test_chats_are_those_of_transformers(tmp_path: Path, name: str, kind: str) -> None:
    tiny_tokenizers.save(tmp_path, tiny_tokenizers.KINDS[kind](), chat_template=TEMPLATES[name])
    ours, theirs = JsonTokenizer(Files(tmp_path)), PreTrainedTokenizerFast.from_pretrained(tmp_path)
    extra = {"enable_thinking": True} if name == "thinking" else {}
    for prompt in (True, False):
        for chat in ([ASK], CHAT):
            options = {"add_generation_prompt": prompt} | extra
            assert ours.render(chat, **options) == theirs.apply_chat_template(chat, tokenize=False, **options)
            assert ours.chat(chat, **options) == theirs.apply_chat_template(chat, return_dict=False, **options)


@pytest.mark.parametrize("name", ["llama_3", "chatml"])
def test_a_chat_has_the_templates_own_bos_and_no_second_one(tmp_path: Path, name: str) -> None:
    ours, _ = both(tmp_path, TEMPLATES[name])
    assert ours.encode("hello").ids[0] == ours.bos
    assert ours.chat([ASK]).count(ours.bos or 0) == (1 if name == "llama_3" else 0)


def test_the_file_of_its_own_wins_over_the_config(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, "from the file", chat_template="from the config")
    assert ours.render([ASK]) == theirs.apply_chat_template([ASK], tokenize=False) == "from the file"


@pytest.mark.parametrize("folder", [False, True])
def test_one_of_several_templates_is_chosen_as_transformers_does_it(tmp_path: Path, folder: bool) -> None:
    named = {"default": "plain", "tool_use": "with {{ tools | length }} tools", "rag": "rag"}
    if folder:
        (tmp_path / "additional_chat_templates").mkdir()
        for name in ("tool_use", "rag"):
            (tmp_path / "additional_chat_templates" / f"{name}.jinja").write_text(named[name])
        ours, theirs = both(tmp_path, named["default"])
    else:
        ours, theirs = both(tmp_path, chat_template=[{"name": name, "template": named[name]} for name in named])
    tool = {"type": "function", "function": {"name": "look"}}
    for options in ({}, {"tools": [tool]}, {"chat_template": "rag"}, {"chat_template": "<{{ bos_token }}>"}):
        assert ours.render([ASK], **options) == theirs.apply_chat_template(
            [ASK], tokenize=False, add_generation_prompt=True, **options
        )


def test_special_tokens_are_variables_and_a_caller_may_set_them(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, "{{ bos_token }}{{ image_token }}{{ pad_token }}", image_token="<image>")
    for options in ({}, {"pad_token": "<p>"}):
        assert ours.render([ASK], **options) == theirs.apply_chat_template([ASK], tokenize=False, **options)


def test_reasoning_goes_by_every_name_that_templates_use(tmp_path: Path) -> None:
    said = "{% for m in messages %}{{ m.thinking }}/{{ m.reasoning_content }};{% endfor %}"
    ours, theirs = both(tmp_path, said)
    for name in ("reasoning_content", "thinking", "reasoning"):
        chat = [ASK, {"role": "assistant", "content": "a", name: "why"}]
        assert ours.render(chat) == theirs.apply_chat_template(chat, tokenize=False)


def test_a_chat_that_the_template_refuses_is_an_error_with_its_words(tmp_path: Path) -> None:
    ours, _ = both(tmp_path, tiny_tokenizers.ALTERNATING)
    with pytest.raises(ChatTemplateError, match="refuses this chat: Conversation roles must alternate") as caught:
        ours.chat([ASK, ASK])
    assert str(caught.value.said).startswith("Conversation roles")


def test_a_checkpoint_without_a_template_says_where_it_looked(tmp_path: Path) -> None:
    ours, _ = both(tmp_path)
    with pytest.raises(ChatTemplateError, match=r"has no chat template: looked for chat_template\.jinja"):
        ours.chat([ASK])
    assert ours.render([ASK], chat_template="given: {{ messages[0].content }}") == "given: How are you?"


def test_templates_without_a_default_ask_for_a_choice() -> None:
    with pytest.raises(ChatTemplateError, match=r"\['rag'\] and no default"):
        ChatTemplate({"rag": "rag"}, {}, "here").render([ASK], True)


@pytest.mark.parametrize(
    "escape",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(a=1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ dict.__call__.__globals__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ ''['format_map'].__self__.x }}",
        "{{ '{0.__class__}'.format('')[0] + messages.__class__.x }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ namespace(__class__=1) }}",
        "{% for i in range(10000000) %}{% endfor %}",
    ],
)
def test_the_sandbox_holds(escape: str) -> None:
    with pytest.raises(ChatTemplateError, match=r"tries what the sandbox forbids|refuses this chat"):
        template(escape).render([dict(ASK)], True)


@pytest.mark.parametrize(
    "broken", ["{% if %}", "{{ nothing.here }}", "{{ 1 / 0 }}", "{{ messages[9].content }}", "{% nope %}"]
)
def test_whatever_a_template_raises_is_our_error(broken: str) -> None:
    with pytest.raises(ChatTemplateError, match="the chat template of here refuses this chat"):
        template(broken).render([ASK], True)


def test_arguments_that_no_template_reads_are_refused() -> None:
    with pytest.raises(ChatTemplateError, match="no chat template reads continue_final_message, tokenize"):
        template("x").render([ASK], True, tokenize=True, continue_final_message=True)


def test_objects_do_not_reach_a_template() -> None:
    with pytest.raises(ChatTemplateError, match="is a PurePosixPath"):
        template("{{ where.write_text('x') }}").render([ASK], True, where=PurePosixPath("x"))
