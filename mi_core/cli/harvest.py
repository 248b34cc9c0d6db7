"""``mi harvest``: activations over a corpus, from a shell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mi_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from mi_core.explaining import Topics

__all__ = ["mi_command"]


def harvest(
    model: Annotated[
        str,
        typer.Argument(
            help="An embedded model, a folder (./name) or a Hub id; or, alone, a harvest to show.", show_default=False
        ),
    ],
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Text, JSON lines (both also .gz, .bz2, .xz, .zst), parquet or Arrow: files, folders, patterns.",
            show_default=False,
        ),
    ] = None,
    points: Annotated[
        list[str] | None,
        typer.Option("--points", "-p", help="Such as 'blocks.*.hook_resid_post'. May be repeated.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder to write into.", show_default=False)
    ] = None,
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
    check_room: Annotated[
        bool, typer.Option(help="Refuse at once, judged by the first shard, what the disk has no room for.")
    ] = True,
    progress: Annotated[bool, typer.Option(help="Show a bar; where there is no terminal, a line every 30 s.")] = True,
    check: Annotated[bool, typer.Option("--check", help="Of a harvest alone: read every byte of it.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (the checkpoint's), float32, bfloat16, float16.")] = "auto",
    quantise: Annotated[str | None, typer.Option(help="Hold matrices in eight bits: int8 or float8.")] = None,
) -> None:
    """Write a model's activations over a corpus into a folder, a row for each token; or show what a folder has.

    Ctrl-C, a kill or a full disk lose at most the shard that was being made: the same command goes on from the others.
    ``accelerate launch -m mi_core.cli.main harvest ...`` shares the work out to several processes.
    """
    if not data and not points and out is None:
        shown(model, check)
        return
    for given, name in ((data, "DATA"), (points, "--points"), (out, "--out")):
        if not given:
            raise typer.BadParameter(
                "is missing; a harvest that is there is shown by its folder alone", param_hint=name
            )

    if check:
        raise typer.BadParameter("--check is of a harvest alone", param_hint="--check")

    import mi_core as mi
    from mi_core.cli.console import problems
    from mi_core.harvests.ranks import ranks

    assert points is not None
    assert out is not None
    together = ranks()
    loaded = mi.load(model, device=together.device if device == "auto" else device, dtype=dtype, quantise=quantise)
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
            check_room=check_room,
            progress=progress,
        )
    except mi.HarvestInterrupted as stopped:
        if together.first:
            problems().print(str(stopped), markup=False)
        raise
    if together.first:
        from mi_core.harvests.showing import brief_topics

        report(brief_topics(made))


def shown(folder: str, check: bool) -> None:
    """What a harvest is of; the exit status is 2 where some of it is hurt."""
    from mi_core.harvests.folder import INDEX
    from mi_core.harvests.reading import Harvest
    from mi_core.harvests.showing import full_topics

    if not Path(folder, INDEX).exists():
        raise typer.BadParameter(
            f"{folder!r} is no harvest to show; to make one, give DATA, --points and --out, too", param_hint="MODEL"
        )
    topics = full_topics(Harvest(folder), thorough=check)
    report(topics)
    if "hurt" in dict(topics):
        raise typer.Exit(2)


def report(topics: Topics) -> None:
    """Topics beside their lines."""
    from rich.text import Text

    from mi_core.cli.console import output

    for topic, lines in topics:
        for number, line in enumerate(lines):
            output().print(Text.assemble((f"{'' if number else topic:<9}", "dim"), line), soft_wrap=True)


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
