"""``mi dictionary train``: a dictionary of a harvest, or of a model over a corpus, from a shell."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mi_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from mi_dictionaries.training.streams import Chunks

__all__ = ["mi_command"]

STOPPED = 130
LAYOUTS = ("own", "saelens", "circuit-tracer")


def train(
    source: Annotated[
        str, typer.Argument(help="A folder that mi harvest wrote; or a model, with --data.", show_default=False)
    ],
    points: Annotated[
        list[str],
        typer.Option(
            "--point",
            "-p",
            help="The point; for a transcoder the one it reads and the one it writes, for "
            "cross-layer transcoders all that are read and then all that are written.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write into.", show_default=False)],
    tokens: Annotated[int, typer.Option(help="Tokens to train on.", min=1, show_default=False)],
    d_sae: Annotated[int, typer.Option(help="How many features.", min=1, show_default=False)],
    architecture: Annotated[str, typer.Option(help="standard, topk, batchtopk, jumprelu, ...")] = "batchtopk",
    option: Annotated[
        list[str] | None, typer.Option("--option", "-O", help="Of the architecture: k=32. May be repeated.")
    ] = None,
    config: Annotated[
        list[str] | None, typer.Option("--config", "-C", help="Of the training: lr=1e-3, batch=2048. May be repeated.")
    ] = None,
    data: Annotated[list[Path] | None, typer.Option(help="A corpus, for a model: text, JSON lines, parquet.")] = None,
    context: Annotated[int, typer.Option(help="Tokens of a row, for a model.", min=2)] = 128,
    layout: Annotated[str, typer.Option(help=", ".join(LAYOUTS))] = "own",
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda, ...")] = "cpu",
) -> None:
    """Train a sparse dictionary. Ctrl-C keeps a checkpoint, and the same command goes on from it.

    Writes the dictionary to OUT/dictionary, measures to OUT/metrics.jsonl. ``accelerate launch -m mi_core.cli.main
    dictionary train ...`` shares the work out to several processes.
    """
    if layout not in LAYOUTS:
        raise typer.BadParameter(f"{layout!r}: give one of {', '.join(LAYOUTS)}", param_hint="--layout")
    settings = {"tokens": tokens, **named(config, "--config")}
    asked = {"architecture": architecture, "d_sae": d_sae, **named(option, "--option")}

    from mi_core.cli.console import output
    from mi_core.harvests.ranks import ranks
    from mi_dictionaries.training import TrainingConfig, options_of
    from mi_dictionaries.training import train as run
    from mi_dictionaries.training.stopping import Interrupt

    options, recipe = options_of(asked), TrainingConfig.read(settings)
    activations = opened(source, points, data or (), context)
    with Interrupt() as stopped:
        found = run(activations, options, recipe, out=out, device=device, stopped=stopped)
    if found is None:
        raise typer.Exit(STOPPED)
    if ranks().first:
        write(found, out / "dictionary", layout)
        details = found.about.details
        shown = f"L0 {details['l0_in_training']:.1f}, {details['dead_features']} dead, {details['seconds']:.0f} s"
        output().print(f"{out / 'dictionary'}: {architecture}, {d_sae} features, {shown}", markup=False, soft_wrap=True)


def opened(source: str, points: Sequence[str], data: Sequence[Path], context: int) -> Chunks:
    """A harvest, or a model that reads a corpus."""
    import mi_core as mi
    from mi_core.harvests.reading import Harvest
    from mi_dictionaries.training.streams import LiveActivations, StoredActivations

    if not data:
        return StoredActivations(Harvest(source), tuple(points))
    return LiveActivations.over(mi.load(source), list(data), points, columns=context)


def write(found: Any, folder: Path, layout: str) -> None:
    """The dictionary in one of the layouts."""
    from mi_dictionaries.writing import save, save_circuit_tracer, save_saelens

    writers: dict[str, Callable[[Any, Path], object]] = {
        "own": save,
        "saelens": save_saelens,
        "circuit-tracer": save_circuit_tracer,
    }
    writers[layout](found, folder)


def named(given: Sequence[str] | None, option: str) -> dict[str, Any]:
    """``["k=32", "skip=true"]`` as a mapping; a value that is no JSON is a text.

    >>> named(["k=32", "lr_schedule=cosine"], "-O")
    {'k': 32, 'lr_schedule': 'cosine'}
    """
    found: dict[str, Any] = {}
    for each in given or ():
        name, equals, value = each.partition("=")
        if not equals:
            raise typer.BadParameter(f"{each!r}: give NAME=VALUE", param_hint=option)
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi dictionary train``."""
    return train
