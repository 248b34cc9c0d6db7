"""``mi algzoo``: a tiny network taken apart in a shell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mi_core.hookspecs import hookimpl

if TYPE_CHECKING:
    import mi_core as mi

__all__ = ["algzoo", "mi_command"]


def algzoo(
    model: Annotated[str, typer.Argument(help="An embedded network, a folder or a file.", show_default=False)],
    task: Annotated[str, typer.Option(help="What it was trained on; from its config if left out.")] = "",
    samples: Annotated[int, typer.Option(help="Random inputs, where inputs cannot be listed.", min=1)] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the inputs.")] = 0,
    allow_pickle: Annotated[bool, typer.Option(help="Read a .pth file.")] = False,
) -> None:
    """Take a network of AlgZoo's shapes apart: accuracy, regions, units, and what explains its answers.

    Of a transformer, accuracy and surprise; of a recurrent network, all.
    """
    import mi_core as mi
    from mi_core.cli.console import output

    loaded = mi.load(model, allow_pickle=allow_pickle)
    console = output()
    for part in report(loaded, task or task_named(loaded), samples, seed):
        console.print(part)
        console.print()


def task_named(model: mi.Model) -> str:
    """The task that the config names.

    Raises:
        BadParameter: it names none.
    """
    found = model.config.get("task")
    if not isinstance(found, str):
        raise typer.BadParameter("its config does not say what it was trained on: give --task, such as second_argmax")
    return found


def report(model: mi.Model, task: str, samples: int, seed: int) -> Iterator[Any]:
    """What is printed, one part after another."""
    from mi_algzoo.ablation import unit_ablation
    from mi_algzoo.accuracy import accuracy
    from mi_algzoo.regions import regions
    from mi_algzoo.roles import unit_roles
    from mi_algzoo.surprise import surprise

    right = accuracy(model, task, samples=samples, seed=seed)
    yield f"{model.provenance.ref}: {right:.4%} of answers to {task} are right"
    if model.shape.numbers is not None:
        yield weights_table(model)
        yield regions(model, samples=samples, seed=seed)
        yield units_table(unit_ablation(model, task, samples=samples, seed=seed), unit_roles(model, seed=seed))
    yield surprise_table(surprise(model, task, samples=samples, seed=seed))


def weights_table(model: mi.Model) -> Table:
    """The weights in standard form."""
    from mi_algzoo.standardise import standardised
    from mi_algzoo.weights import RNNWeights

    found = standardised(RNNWeights.of(model)).weights
    units = [f"unit {unit}" for unit in range(found.units)]
    table = plain("weights in standard form (each unit reads its number times 1 or -1)", "", "number", *units)
    for unit, (own, others) in enumerate(zip(found.w_ih.tolist(), found.w_hh.tolist(), strict=True)):
        table.add_row(f"unit {unit} reads", f"{own:+.0f}", *(f"{weight:+.3f}" for weight in others))
    for out, row in enumerate(found.w_oh.tolist()):
        table.add_row(f"output {out} reads", "", *(f"{weight:+.3f}" for weight in row))
    return table


def units_table(ablation: Any, roles: Any) -> Table:
    """What each unit goes along with at each step, and the accuracy without it."""
    steps = [f"step {step}" for step in range(len(roles.best))]
    table = plain("what each unit goes along with (share of its variance), and the accuracy without it", "", *steps)
    table.add_column("accuracy without")
    for unit, without in enumerate(ablation.accuracy.values.diagonal().tolist()):
        cells = []
        for step, names in enumerate(roles.best):
            share = roles.share.sel(step=step, unit=unit).values.nan_to_num(0).max()
            cells.append(f"{names[unit]} ({float(share):.0%})")
        table.add_row(f"unit {unit}", *cells, f"{without:.3f}")
    return table


def surprise_table(found: Any) -> Table:
    """Each explanation's bits."""
    table = plain(
        f"bits of surprise, {found.inputs:,} answers; the least: {found.best}",
        *("explanation", "to state it", "of the answers", "in all", "agrees with"),
    )
    arrays = (found.stated, found.unexplained, found.total, found.agreement)
    for name, *bits, agreed in zip(
        found.total.coords["explanation"], *(array.values.tolist() for array in arrays), strict=True
    ):
        table.add_row(str(name), *(f"{value:,.0f}" for value in bits), f"{agreed:.2%}")
    return table


def plain(title: str, *columns: str) -> Table:
    """A table without lines."""
    table = Table(title=title, title_justify="left", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi algzoo``."""
    return algzoo
