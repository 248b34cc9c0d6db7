"""``mi check``: the conformance kit from a shell."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mi_core.errors import BrokenPlugin
from mi_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from mi_core.testing import Report

__all__ = ["mi_command"]

FAILED, INTERRUPTED = 1, 130


def check(
    name: Annotated[
        str,
        typer.Argument(help="A family, an embedded model, a folder (./name) or a Hub id.", show_default=False),
    ],
    only: Annotated[
        list[str] | None, typer.Option(help="Run this check alone, with or without check_. May be repeated.")
    ] = None,
    examples: Annotated[
        int, typer.Option(help="How many examples each check tries.", min=1, envvar="MI_CHECK_EXAMPLES")
    ] = 100,
    seed: Annotated[int, typer.Option(help="Of the random weights and of the examples.", min=0)] = 0,
) -> None:
    """Does this plugin or checkpoint keep the contract of hook points?

    A family is checked on each of its example configs, with random weights; a checkpoint as it is, in float32. The
    exit status is 1 when a check fails. Ctrl-C shows what is known so far.
    """
    from mi_core.cli.console import output, problems

    try:
        from mi_core.testing import run_checks
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise BrokenPlugin(
            "mi check draws its examples with hypothesis, which is not installed: pip install 'mi-core[test]'.",
            name="check",
        ) from None
    with problems().status("making the models") as status:

        def progress(subject: Any, one: Any, number: int, total: int) -> None:
            status.update(f"{number + 1} of {total}: {subject.name} {one.name}")

        report = run_checks(name, only=only or (), examples=examples, seed=seed, progress=progress)
    output().print(table(report))
    for outcome in report.failures:
        output().print(f"\n{outcome.subject} {outcome.check}", style="bold red", markup=False, soft_wrap=True)
        output().print(outcome.problem, markup=False, soft_wrap=True)
    output().print(f"\n{summary(report)}", style="bold", markup=False, soft_wrap=True)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not report.passed:
        raise typer.Exit(FAILED)


def table(report: Report) -> Any:
    """One line for each check: on how many subjects it holds, how long it took."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    drawn.add_column("check", overflow="fold")
    drawn.add_column("what it means", overflow="fold")
    drawn.add_column("result", no_wrap=True)
    for heading in ("seconds", "examples"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for name in dict.fromkeys(outcome.check for outcome in report.outcomes):
        those = [outcome for outcome in report.outcomes if outcome.check == name]
        failed = sum(not outcome.passed for outcome in those)
        result = Text(f"FAILED {failed} of {len(those)}", "bold red") if failed else Text("ok", "green")
        seconds = f"{sum(outcome.seconds for outcome in those):.2f}"
        examples = f"{len(those)} x {those[0].examples}" if len(those) > 1 else str(those[0].examples)
        drawn.add_row(Text(name.removeprefix("check_"), "bold"), Text(those[0].meaning), result, seconds, examples)
    return drawn


def summary(report: Report) -> str:
    """The last line."""
    subjects = len({outcome.subject for outcome in report.outcomes})
    kept = len(report.outcomes) - len(report.failures)
    stopped = f" Stopped {report.stopped}." if report.stopped else ""
    return f"{report.source}: {kept} of {len(report.outcomes)} hold, on {subjects} model(s).{stopped}"


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi check``."""
    return check
