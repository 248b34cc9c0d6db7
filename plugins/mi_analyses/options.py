"""The arguments and options that commands of analyses share, and how their results leave."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from mi_core.metrics import Metric, logit, logit_diff
from mi_core.results import Result

__all__ = [
    "Answer",
    "CleanPrompt",
    "CorruptPrompt",
    "DType",
    "Device",
    "Html",
    "Json",
    "ModelName",
    "Prompt",
    "Quantise",
    "Wrong",
    "answer_metric",
    "check_folders",
    "deliver",
    "listed",
    "numbers",
    "place",
]

ModelName = Annotated[str, typer.Argument(help="An embedded model, a folder (./name) or a Hub id.", show_default=False)]
Prompt = Annotated[str, typer.Argument(help="The prompt.", show_default=False)]
CleanPrompt = Annotated[str, typer.Argument(help="The prompt that has the answer.", show_default=False)]
CorruptPrompt = Annotated[str, typer.Argument(help="The prompt that has the other answer.", show_default=False)]
Answer = Annotated[str, typer.Option(help="What the clean prompt says next, such as ' Paris'.", show_default=False)]
Wrong = Annotated[
    str | None, typer.Option(help="What the corrupt one says next; without it the answer's logit is measured.")
]
Html = Annotated[Path | None, typer.Option(help="Write one self-contained page.", dir_okay=False)]
Json = Annotated[Path | None, typer.Option(help="Write the numbers with their provenance.", dir_okay=False)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps, ...")]
DType = Annotated[str, typer.Option(help="auto (the checkpoint's), float32, bfloat16, float16.")]
Quantise = Annotated[str | None, typer.Option(help="Hold matrices in eight bits: int8 or float8.")]


def check_folders(*paths: Path | None) -> None:
    """Refuse files in folders that do not exist, before anything runs."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise typer.BadParameter(f"there is no folder {str(path.parent)!r} to write {path.name!r} into")


def deliver(result: Result, html: Path | None, json: Path | None) -> None:
    """Print a result, and write it where that was asked for."""
    from mi_core.cli.console import output

    output().print(result)
    for path, write in ((html, result.to_html), (json, result.to_json)):
        if path is not None:
            write(path)
            output().print(f"wrote {path}", style="dim", markup=False, highlight=False, soft_wrap=True)


def answer_metric(answer: str, wrong: str | None) -> Metric:
    """The answer's logit, or how far it is above the wrong one's."""
    return logit(answer) if wrong is None else logit_diff(answer, wrong)


def listed(given: str) -> tuple[str, ...]:
    """The parts of a text with commas.

    >>> listed("layer, pos")
    ('layer', 'pos')
    """
    return tuple(part.strip() for part in given.split(",") if part.strip())


def numbers(given: str, option: str) -> list[float]:
    """The numbers of a text with commas.

    >>> numbers("0.5, 2", "--scales")
    [0.5, 2.0]
    """
    try:
        return [float(part) for part in listed(given)]
    except ValueError:
        raise typer.BadParameter(f"{given!r}: give numbers, such as 1,2", param_hint=option) from None


def place(given: str | None) -> Any:
    """Positions as a shell says them: ``-1`` and ``0,3`` are numbers, all else a text of the prompt; None for none.

    >>> place("-1"), place("0, 3"), place("France")
    (-1, [0, 3], Span('France'))
    """
    from mi_core.positions import Span

    if given is None:
        return None
    parts = listed(given)
    if not parts or not all(re.fullmatch(r"-?\d+", part) for part in parts):
        return Span(given)
    return int(parts[0]) if len(parts) == 1 else [int(part) for part in parts]
