"""``mi dictionary evaluate``: what a dictionary keeps of a model, from a shell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from mi_core.hookspecs import hookimpl

__all__ = ["evaluate", "mi_command"]


def evaluate(
    ref: Annotated[str, typer.Argument(help="The dictionary: a name, a folder, a Hub reference.", show_default=False)],
    model: Annotated[str, typer.Argument(help="The model that it is of.", show_default=False)],
    data: Annotated[Path, typer.Argument(help="A text, one document a line.", exists=True, dir_okay=False)],
    layer: Annotated[
        int | None, typer.Option(help="Of a set of dictionaries, one layer; all are replaced else.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Documents in one run.", min=1)] = 32,
    skip_bos: Annotated[bool, typer.Option(help="Leave BOS as it is, and do not count it.")] = True,
    json: Annotated[Path | None, typer.Option(help="Write the numbers with their provenance.", dir_okay=False)] = None,
) -> None:
    """How sparse and how exact is a dictionary, and how much of what the model predicts does it keep?

    Of a set, its layers are replaced one after another, all of them in the last row.
    """
    import mi_core as mi
    from mi_core.cli.console import output
    from mi_dictionaries.evaluation import evaluate as run
    from mi_dictionaries.loading import load

    texts = [line for line in data.read_text(encoding="utf-8").splitlines() if line.strip()]
    loaded = mi.load(model)
    bos = loaded.tokenizer.bos if skip_bos and loaded.tokenizer is not None else None
    found = run(loaded, load(ref, layer=layer), parts(texts, rows), skip=() if bos is None else (bos,))
    console = output()
    console.print(f"{ref}, {found.tokens:,} tokens", markup=False, highlight=False)
    for table in (found.sparsity, found.reconstruction, found.behaviour):
        console.print(table)
    if json is not None:
        found.to_json(json)


def parts(texts: Sequence[str], rows: int) -> Iterator[list[str]]:
    """Some texts at a time."""
    left = iter(texts)
    while some := list(islice(left, rows)):
        yield some


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi dictionary evaluate``."""
    return evaluate
