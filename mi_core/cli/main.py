"""``mi``: every command is a plugin of the group ``mi_core.commands``; ``mi NAME`` imports that one and no other.

A name of two words, such as ``dictionary inspect``, is a command of a family: ``mi dictionary`` lists the family.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from mi_core import plugins
from mi_core.errors import MiError, PluginError, UnknownPlugin

__all__ = ["main"]

GROUP = "mi_core.commands"
USAGE = "mi [--help] [--version] [--debug] COMMAND ..."
HELP = ("--help", "-h", "help")
FAILED, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0, 2 for what we refuse, 130 after Ctrl-C.

    Errors of this library are one message without a traceback; ``--debug`` or ``MI_DEBUG=1`` shows it.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = bool(os.environ.get("MI_DEBUG"))
    if "--debug" in words[: words.index("--") if "--" in words else None]:
        words.remove("--debug")
        debug = True
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # a terminal that cannot show a sign shows a question mark, not a traceback
            stream.reconfigure(errors="replace")
    try:
        status = dispatch(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever read us has left; what is still buffered must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except (MiError, OSError) as error:
        if debug:
            raise
        complain(error)
        return FAILED
    return status


def dispatch(words: list[str]) -> int:
    """What the first word asks for."""
    if not words or words[0] in HELP:
        overview()
        return 0
    if words[0] == "--version":
        print(f"mi-core {version('mi-core')}")
        return 0
    if words[0].startswith("-"):
        raise UnknownPlugin(f"mi has no option {words[0]!r}. Usage: {USAGE}", name=words[0])
    known = plugins.names(GROUP)
    family = [name for name in known if name.startswith(f"{words[0]} ")]
    if not family or words[0] in known:
        return run(words[0], words[1:])
    if len(words) < 2 or words[1] in HELP:
        overview(family, f"mi {words[0]} [--help] COMMAND ...")
        return 0
    return run(f"{words[0]} {words[1]}", words[2:])


def run(name: str, words: Sequence[str]) -> int:
    """One command with its arguments; typer prints what is wrong with them."""
    function = command(name)

    import typer.main

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name)(function)
    try:
        typer.main.get_command(app).main(args=list(words), prog_name=f"mi {name}")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    return 0


def command(name: str) -> Callable[..., None]:
    """The function behind a command.

    Raises:
        UnknownPlugin: no such command; the message gives the closest.
        BrokenPlugin: its plugin cannot be used.
    """
    known = plugins.names(GROUP)
    if name not in known:
        raise UnknownPlugin(f"mi has no command {name!r}.{closest(name, known)} `mi --help` lists them", name=name)
    function: Callable[..., None] = plugins.plugin(GROUP, name).call("mi_command")
    return function


def closest(name: str, known: dict[str, str]) -> str:
    """A suggestion, where one command is spelled nearly so."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f" Did you mean {near[0]!r}?" if near else ""


def overview(names: Sequence[str] | None = None, usage: str = USAGE) -> None:
    """Every command, or those of a family, with the first line of its documentation; broken plugins beside the rest."""
    from rich.table import Table
    from rich.text import Text

    from mi_core.cli.console import output

    console = output()
    console.print(Text(f"Usage: {usage}\n"))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, distribution in plugins.names(GROUP).items():
        if names is None or name in names:
            table.add_row(f"  {name}", summary(name, distribution))
    console.print(table)
    console.print(Text("\n`mi COMMAND --help` says what a command takes. --debug shows tracebacks.", "dim"))


def summary(name: str, distribution: str) -> Any:
    """One line about a command, or what is wrong with it."""
    from rich.text import Text

    try:
        text = (inspect.getdoc(command(name)) or "").partition("\n")[0]
    except PluginError as error:
        return Text(f"broken: {error}", "red")
    return Text(text if distribution == "mi-core" else f"{text} ({distribution})")


def complain(error: Exception) -> None:
    """One message on standard error."""
    from rich.text import Text

    from mi_core.cli.console import problems

    problems().print(Text.assemble((f"{type(error).__name__}:", "bold red"), f" {error}"))


if __name__ == "__main__":
    sys.exit(main())
