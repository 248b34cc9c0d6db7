"""``mi harvest``: activations over a corpus, from a shell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mi_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from mi_core.harvests.reading import Harvest

__all__ = ["mi_command"]


def harvest(
    model: Annotated[str, typer.Argument(help="An embedded model, a folder (./name) or a Hub id.", show_default=False)],
    data: Annotated[
        list[Path], typer.Argument(help="Text, JSON lines, parquet or Arrow; one file or several.", show_default=False)
    ],
    points: Annotated[
        list[str],
        typer.Option("--points", "-p", help="Such as 'blocks.*.hook_resid_post'. May be repeated.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write into.", show_default=False)],
    pos: Annotated[
        str | None, typer.Option(help="Keep these positions of each window: -1, or a slice such as 5: or -3:.")
    ] = None,
    spec: Annotated[
        Path | None, typer.Option(help="Interventions: a spec that was saved with spec.save(FILE).", dir_okay=False)
    ] = None,
    store: Annotated[str | None, typer.Option(help="The dtype to store, such as bfloat16.")] = None,
    field: Annotated[str | None, typer.Option(help="Where the document is, in records of several fields.")] = None,
    divided: Annotated[
        str | None, typer.Option(help="A document of a text file: line (by default), paragraph or file.")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens that the model reads at one time.")] = None,
    overlap: Annotated[int, typer.Option(help="Tokens that each further window of a document begins with.")] = 0,
    long: Annotated[str, typer.Option(help="Documents longer than the context: split, or refuse.")] = "split",
    repeat_bos: Annotated[bool, typer.Option(help="Begin every window of a document with its BOS.")] = True,
    skip_bos: Annotated[bool, typer.Option("--skip-bos", help="Leave out the rows of BOS.")] = False,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens of one run of the model at most.")] = None,
    shard_rows: Annotated[int | None, typer.Option(help="Rows of a shard; by default about 256 MB.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (the checkpoint's), float32, bfloat16, float16.")] = "auto",
) -> None:
    """Write a model's activations over a corpus into a folder, a row for each token.

    Ctrl-C, a kill or a full disk lose at most the shard that was being made: the same command goes on from the others.
    ``accelerate launch -m mi_core.cli.main harvest ...`` shares the work out to several processes.
    """
    import mi_core as mi
    from mi_core.cli.console import problems
    from mi_core.harvests.ranks import ranks

    together = ranks()
    loaded = mi.load(model, device=together.device if device == "auto" else device, dtype=dtype)
    try:
        made = mi.harvest(
            loaded,
            data,
            points,
            out,
            spec=None if spec is None else mi.HookSpec.load(spec),
            pos=positions(pos),
            dtype=store,
            field=field,
            divided=divided,  # type: ignore[arg-type]  # what it may be is said where it is refused
            context=context,
            overlap=overlap,
            long=long,  # type: ignore[arg-type]
            repeat_bos=repeat_bos,
            skip_bos=skip_bos,
            batch_tokens=batch_tokens,
            shard_rows=shard_rows,
        )
    except mi.HarvestInterrupted as stopped:
        problems().print(str(stopped), markup=False)
        raise
    if together.first:
        report(made)


def report(made: Harvest) -> None:
    """What there is now."""
    from rich.text import Text

    from mi_core.cli.console import output
    from mi_core.cli.inspect import size

    console = output()
    index = made.index

    def line(label: str, text: str) -> None:
        console.print(Text.assemble((f"{label:<10}", "dim"), text), soft_wrap=True)

    line("harvest", str(made.folder))
    line("rows", f"{made.rows:,} of {index['tokens']:,} tokens in {index['end']['documents']:,} documents")
    line("shards", f"{len(index['shards'])}, {size(index['bytes'])}")
    for point in made.values() if made.rows else ():
        shape = " ".join(("row", *(f"{dim}={count}" for dim, count in index["dims"][point.name].items())))
        line("point", f"{point.name}  [{shape}]  {str(point.dtype).removeprefix('torch.')}")


def positions(text: str | None) -> Any:
    """A position, or a slice of positions, as Python writes it.

    >>> positions("-1"), positions("5:"), positions("0,2")
    (-1, slice(5, None, None), [0, 2])
    """
    if text is None:
        return None
    try:
        if ":" in text:
            return slice(*(int(part) if part.strip() else None for part in text.split(":")))
        found = [int(part) for part in text.split(",")]
    except (TypeError, ValueError):
        raise typer.BadParameter(f"{text!r} is no position, list or slice", param_hint="--pos") from None
    return found if len(found) > 1 else found[0]


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi harvest``."""
    return harvest
