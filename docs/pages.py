"""What a page of this guide says, run: the code blocks of a Markdown file in order, and what they print.

A ``python`` block is run in the page's own namespace; as in a notebook, the value of its last line is shown. In an
``sh`` block the commands that begin with ``mi`` are run. A ``text`` block behind either is the output: it must be what
is printed, with numbers equal to a few per cent and ``...`` for anything. An error of this library is output, too.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from mi_core.errors import MiError

__all__ = ["Block", "blocks", "differs", "run_page", "with_outputs"]

HERE = Path(__file__).parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?")
WIDTH = "110"


@dataclass(frozen=True)
class Block:
    """One fenced block, and the output block right behind it, if there is one."""

    language: str
    code: str
    line: int
    shown: str | None = None
    span: tuple[int, int] | None = None
    """Where in the page the shown output stands."""


def blocks(text: str) -> list[Block]:
    """The blocks that are run, each with its output."""
    found: list[Block] = []
    end = -1
    for match in FENCE.finditer(text):
        language, code = match[1], match[2]
        if language == "text" and found and text[end : match.start()].strip() == "":
            found[-1] = replace(found[-1], shown=code, span=match.span(2))
        if language in ("python", "sh"):
            found.append(Block(language, code, text.count("\n", 0, match.start()) + 1))
        end = match.end()
    return found


def run_page(path: Path) -> Iterator[tuple[Block, str]]:
    """Each block of a page with what it prints now; run in the current folder."""
    page = ModuleType("__page__")
    sys.modules["__page__"] = page  # where dataclasses look for their module
    for block in blocks(path.read_text(encoding="utf-8")):
        if block.language == "sh":
            yield block, run_commands(block.code)
        else:
            yield block, run_code(block, vars(page), path)


def run_code(block: Block, namespace: dict[str, Any], path: Path) -> str:
    """What a block prints; an error of ours ends it where an output is shown for it."""
    tree = ast.parse(block.code)
    ast.increment_lineno(tree, block.line)
    last = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), environment():
        try:
            exec(compile(tree, str(path), "exec", dont_inherit=True), namespace)
            value = None if last is None else eval(compile(last, str(path), "eval", dont_inherit=True), namespace)
            if value is not None:
                print(value if isinstance(value, str) else repr(value))
        except MiError as error:
            if block.shown is None:
                raise
            print(f"{type(error).__name__}: {error}")
    return stripped(printed.getvalue())


def run_commands(code: str) -> str:
    """What the commands of ours in a shell block print."""
    program = str(Path(sys.executable).parent / "mi")
    printed = ""
    for line in code.replace("\\\n", " ").splitlines():
        command = line.rpartition("&&")[2].strip()
        if not command.startswith("mi "):
            continue
        arguments = [program, *shlex.split(command, comments=True)[1:]]
        with environment():
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode not in (0, 2):
            raise RuntimeError(f"{command!r} ended with {done.returncode}: {done.stderr}")
        printed += done.stdout + done.stderr
    return stripped(printed)


def stripped(printed: str) -> str:
    """Without the blanks that tables leave at the ends of lines."""
    return "".join(f"{line.rstrip()}\n" for line in printed.splitlines())


@contextlib.contextmanager
def environment() -> Iterator[None]:
    """A terminal of one width and without colours."""
    before = dict(os.environ)
    os.environ.update(COLUMNS=WIDTH, NO_COLOR="1", TERM="dumb")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def differs(shown: str, printed: str) -> bool:
    """Whether a page shows something else than what is printed."""
    parts = [re.escape(" ".join(part.split())) for part in shown.strip().split("...")]
    wanted = NUMBER.sub("<n>", shown) if len(parts) == 1 else None
    if wanted is None:  # with an ellipsis: exact but for what it stands for
        return re.fullmatch(".*".join(parts), " ".join(printed.split()), re.DOTALL) is None
    if wanted.split() != NUMBER.sub("<n>", printed).split():
        return True
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return not all(near(*pair) for pair in pairs)


def near(shown: str, printed: str) -> bool:
    """Whether two numbers are equal to a few per cent, or to two of the last digit shown; whole ones exactly."""
    if not re.search(r"[.e]", shown + printed):
        return shown == printed
    digits = len(shown.partition(".")[2].partition("e")[0])
    one, other = float(shown), float(printed)
    return abs(one - other) <= max(0.05 * abs(one), 2 * 10.0**-digits)


def with_outputs(path: Path) -> str:
    """The page with the outputs of now in place of those that differ."""
    text = path.read_text(encoding="utf-8")
    for block, printed in reversed(list(run_page(path))):
        if block.span is not None and differs(block.shown or "", printed):
            text = text[: block.span[0]] + printed.rstrip("\n") + "\n" + text[block.span[1] :]
    return text
