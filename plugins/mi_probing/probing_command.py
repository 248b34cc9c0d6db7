"""``mi probe``: probing from a shell."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from mi_analyses.options import Device, DType, Html, Json, ModelName, Quantise, check_folders, deliver, numbers, place

if TYPE_CHECKING:  # importing them imports torch
    from mi_probing.probing import Probing
    from mi_probing.reading import Reading

__all__ = ["Layers", "Places", "Save", "Site", "columns", "keep_best", "probe", "where"]

Site: TypeAlias = Annotated[str, typer.Option(help="Where, without the layer.")]
Layers: TypeAlias = Annotated[str | None, typer.Option(help="These layers only, such as 1,2.")]
Places: TypeAlias = Annotated[
    list[str] | None, typer.Option("--pos", help="A position: -1, or a text of every prompt; again for more.")
]
Save: TypeAlias = Annotated[Path | None, typer.Option(help="Keep the probe of the best cell.")]


def probe(
    model: ModelName,
    examples: Annotated[
        Path, typer.Argument(help="A file of lines LABEL<tab>PROMPT or LABEL<tab>GROUP<tab>PROMPT.", exists=True)
    ],
    site: Site = "hook_resid_post",
    layers: Layers = None,
    pos: Places = None,
    kind: Annotated[str, typer.Option("--probe", help="logistic, mass-mean, discriminant, ridge, sparse, ...")] = (
        "logistic"
    ),
    folds: Annotated[int, typer.Option(help="Over which penalties are chosen.", min=2)] = 5,
    test: Annotated[float, typer.Option(help="The share of the examples to test on.", min=0.01, max=0.99)] = 0.25,
    shuffles: Annotated[int, typer.Option(help="Fits with shuffled labels.", min=0)] = 10,
    code: Annotated[bool, typer.Option("--code", help="Also measure the code length of the labels.")] = False,
    random_model: Annotated[bool, typer.Option("--random-model", help="Also probe fresh weights.")] = False,
    balanced: Annotated[bool, typer.Option("--balanced", help="All classes weigh the same in a fit.")] = False,
    seed: Annotated[int, typer.Option(help="Of splits and controls.")] = 0,
    save: Save = None,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """Where can a label be read from activations, and is that more than controls?

    Examples of one group are never on two sides of a split. Prints scores, layer by layer and position by position.
    """
    check_folders(html, json, save)
    labels, groups, [prompts] = columns(examples, ("LABEL", "PROMPT"))

    import mi_core as mi
    from mi_probing.probing import probing
    from mi_probing.protocol import Protocol

    result = probing(
        mi.load(model, device=device, dtype=dtype, quantise=quantise),
        prompts,
        labels,
        **where(groups, site, layers, pos),
        probe=kind,
        protocol=Protocol((1 - test, 0.0, test), folds, balanced=balanced, shuffles=shuffles, code=code, seed=seed),
        random_model=random_model,
    )
    deliver(result, html, json)
    keep_best(result, save)


def where(groups: list[str] | None, site: str, layers: str | None, pos: list[str] | None) -> Reading:
    """What is read, as the options say it."""
    chosen = None if layers is None else [int(layer) for layer in numbers(layers, "--layers")]
    return {"groups": groups, "site": site, "layers": chosen, "pos": {one: place(one) for one in pos or ["-1"]}}


def keep_best(result: Probing, save: Path | None) -> None:
    """Write the probe of the best cell where that is asked for."""
    if save is not None:
        best = result.best()
        best.save(save)
        typer.echo(f"wrote {save}: {best}")


def columns(path: Path, names: Sequence[str]) -> tuple[list[str], list[str] | None, list[list[str]]]:
    """Labels, groups (None without a column of them) and each column of prompts of a file.

    Raises:
        BadParameter: lines of other columns than ``names``, with a group behind the first or without.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    widths, plain = {len(row) for row in rows}, len(names)
    if not rows:
        raise typer.BadParameter(f"{str(path)!r} is empty: give lines of {'<tab>'.join(names)}.")
    if widths not in ({plain}, {plain + 1}):
        seen = ", ".join(map(str, sorted(widths)))
        raise typer.BadParameter(
            f"{str(path)!r} has lines of {seen} columns: give {'<tab>'.join(names)}, or "
            f"{'<tab>'.join((names[0], 'GROUP', *names[1:]))}, in all."
        )
    groups = [row[1] for row in rows] if widths == {plain + 1} else None
    return [row[0] for row in rows], groups, [[row[at] for row in rows] for at in range(1 - plain, 0)]
