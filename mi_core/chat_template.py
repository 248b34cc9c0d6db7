"""Rendering a checkpoint's chat template: untrusted code, so in a sandbox. Imports jinja2: import this module late."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from mi_core.errors import ChatTemplateError
from mi_core.files import Files

__all__ = ["ChatTemplate"]

NOT_FOR_TEMPLATES = {
    "continue_final_message",
    "max_length",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "tokenize",
    "tokenizer_kwargs",
    "truncation",
}
"""Arguments of transformers' apply_chat_template that are no variables: a template would ignore them silently."""
REASONING = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """The templates of one checkpoint, by name, and the special tokens that they may write.

    Source: transformers 5.24, utils/chat_template_utils.py (environment, variables, treatment of messages).
    """

    def __init__(self, templates: Mapping[str, str], special_tokens: Mapping[str, str], where: str) -> None:
        self.templates = templates
        self.special_tokens = special_tokens
        self.where = where

    @classmethod
    def of(cls, files: Files, settings: Mapping[str, Any], special_tokens: Mapping[str, str]) -> ChatTemplate:
        """Those of a folder: files of their own, else what tokenizer_config.json (``settings``) holds."""
        templates = {}
        if files.has("chat_template.jinja"):
            templates["default"] = files.path("chat_template.jinja").read_text(encoding="utf-8")
        folder = files.root.joinpath("additional_chat_templates")
        for entry in folder.iterdir() if folder.is_dir() and files.only is None else ():
            templates[entry.name.removesuffix(".jinja")] = entry.read_text(encoding="utf-8")
        stated = settings.get("chat_template") if not templates else None
        if isinstance(stated, str):
            templates["default"] = stated
        elif stated is not None:
            templates |= {each["name"]: each["template"] for each in stated}
        return cls(templates, special_tokens, files.where)

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, **variables: Any) -> str:
        """What does the template make of the messages?

        Raises:
            ChatTemplateError: there is no template, it cannot be read, it refuses the messages (the error says with
                which words), or it tries what the sandbox forbids.
        """
        foreign = sorted(NOT_FOR_TEMPLATES & variables.keys())
        if foreign:
            raise ChatTemplateError(
                f"no chat template reads {', '.join(foreign)}; leave it out of the Chat", names=foreign
            )
        source = self._source(variables.pop("chat_template", None), variables.get("tools"))
        given: dict[str, Any] = {"tools": None, "documents": None} | dict(self.special_tokens) | _plain(variables)
        try:
            return _compiled(source).render(
                messages=[_message(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                **given,
            )
        except ChatTemplateError:
            raise
        # A template is somebody else's program: whatever it raises is said in our words.
        except Exception as error:
            said = error.message if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
            how = "tries what the sandbox forbids" if isinstance(error, SecurityError) else "refuses this chat"
            raise ChatTemplateError(f"the chat template of {self.where} {how}: {said}", said=said) from error

    def _source(self, asked: str | None, tools: Any) -> str:
        if asked is not None:
            return self.templates.get(asked, asked)
        if not self.templates:
            raise ChatTemplateError(
                f"{self.where} has no chat template: looked for chat_template.jinja and for 'chat_template' in"
                " tokenizer_config.json. Give Chat(..., chat_template=TEMPLATE), or the prompt as a text"
            )
        if tools is not None and "tool_use" in self.templates:
            return self.templates["tool_use"]
        if "default" not in self.templates:
            raise ChatTemplateError(
                f"{self.where} has chat templates {sorted(self.templates)} and no default; choose with chat_template="
            )
        return self.templates["default"]


class _Generation(Extension):
    """``{% generation %}`` marks what an assistant wrote, for training; here its body is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as a plain set

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Dict:
    """``dict(...)`` in a template, without the type's attributes."""

    def __call__(self, *items: Any, **named: Any) -> dict[Any, Any]:
        return dict(*items, **named)

    def fromkeys(self, keys: Any, value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class _Namespace(Namespace):
    """``namespace(...)`` in a template; underscored attributes would lead out of the sandbox."""

    def __init__(*args: Any, **named: Any) -> None:
        self, items = args[0], dict(*args[1:], **named)
        for name in items:
            _public(name)
        Namespace.__init__(self, items)

    def __setitem__(self, name: str, value: Any) -> None:
        _public(name)
        super().__setitem__(name, value)


def _public(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may not hold the underscored name {name!r}")


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=32)
def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_refuse, strftime_now=_now, dict=_Dict(), namespace=_Namespace)
    return environment.from_string(source)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates expect it: no key whose value is None, reasoning under the names that are in use."""
    kept = {name: _plain(value) for name, value in message.items() if value is not None}
    reasoning = next((kept[name] for name in REASONING if name in kept), None)
    return kept if reasoning is None else {"thinking": reasoning, **kept, "reasoning_content": reasoning}


def _plain(value: Any) -> Any:
    """The value rebuilt of JSON's types, so that a template gets no object with methods of its own."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {_plain(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise ChatTemplateError(
        f"a chat holds text, numbers, lists and dicts; {value!r} is a {type(value).__name__}. A tool is given as its"
        " JSON schema",
        value=value,
    )
