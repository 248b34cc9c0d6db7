"""``mi plan``: what a run or a sweep would do and cost, from a shell."""

from __future__ import annotations

import json as json_text
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mi_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from rich.table import Table

    from mi_core.grids import Grid
    from mi_core.model import Model

__all__ = ["mi_command"]

GRIDS = {
    "resid": "blocks.*.hook_resid_pre",
    "attn": "blocks.*.hook_attn_out",
    "mlp": "blocks.*.hook_mlp_out",
    "heads": "blocks.*.attn.hook_z",
    "edges": "blocks.*.attn.hook_attn_scores",
}
"""The grids by name: where each of them writes."""


def plan(
    model: Annotated[str, typer.Argument(help="An embedded model, a folder (./name) or a Hub id.", show_default=False)],
    prompt: Annotated[list[str], typer.Argument(help="The prompt, or several.", show_default=False)],
    capture: Annotated[
        list[str] | None, typer.Option(help="A point to keep, such as 'blocks.*.hook_resid_post'. May be repeated.")
    ] = None,
    pos: Annotated[int | None, typer.Option(help="Keep only this position of the captures.")] = None,
    host: Annotated[bool, typer.Option("--host", help="Keep the captures off the accelerator.")] = False,
    spec: Annotated[
        Path | None, typer.Option(help="A spec that was saved with spec.save(FILE).", dir_okay=False)
    ] = None,
    logits: Annotated[str, typer.Option(help="all, last (of each prompt's last token) or none.")] = "all",
    batch_tokens: Annotated[int | None, typer.Option(help="Run the prompts in chunks of so many tokens.")] = None,
    grid: Annotated[
        str | None,
        typer.Option(help=f"Plan a sweep of ablations: {', '.join(GRIDS)}, or a point; the spec is under every cell."),
    ] = None,
    each: Annotated[
        str | None, typer.Option(help="The axes of the grid, such as layer,pos. By default those of its kind.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Patch from this prompt instead of ablating.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (the checkpoint's), float32, bfloat16, float16.")] = "auto",
    quantise: Annotated[str | None, typer.Option(help="Hold matrices in eight bits: int8 or float8.")] = None,
) -> None:
    """Say what a run or a sweep would do and cost, without doing it.

    Layers, kernels, captures, packs; floating-point operations and the most memory that is held at one time.
    """
    refuse_contradictions(logits, grid, each, source, pos, host, capture)

    import mi_core as mi
    from mi_core.cli.console import output

    loaded = mi.load(model, device=device, dtype=dtype, quantise=quantise)
    what = mi.HookSpec() if spec is None else mi.HookSpec.load(spec)
    if capture:
        kept = mi.capture(capture, device="host" if host else None)
        what += kept if pos is None else kept.at(pos=pos)
    given = prompt[0] if len(prompt) == 1 else prompt
    made: Any
    if grid is None:
        made = loaded.plan(given, what, logits=None if logits == "none" else logits, batch_tokens=batch_tokens)  # type: ignore[arg-type]
    else:
        made = loaded.plan_sweep(given, what + grid_of(loaded, grid, each, source), mi.metric(answer, name="a logit"))
    if json:
        typer.echo(json_text.dumps(made.to_json(), indent=1))
    else:
        output().print(table(made.topics()))


def refuse_contradictions(
    logits: str,
    grid: str | None,
    each: str | None,
    source: str | None,
    pos: int | None,
    host: bool,
    capture: list[str] | None,
) -> None:
    """Refuse options that say nothing together."""
    if logits not in ("all", "last", "none"):
        raise typer.BadParameter(f"{logits!r}: say all, last or none", param_hint="--logits")
    if grid is None and (each or source):
        raise typer.BadParameter("goes with --grid", param_hint="--each" if each else "--source")
    if not capture and (pos is not None or host):
        raise typer.BadParameter("goes with --capture", param_hint="--host" if host else "--pos")
    if grid is not None and (capture or logits != "all"):
        raise typer.BadParameter(
            "a sweep keeps no activations and takes the logits that it measures", param_hint="--grid"
        )


def grid_of(model: Model, name: str, each: str | None, source: str | None) -> Grid:
    """The grid that is meant."""
    import mi_core as mi

    points = GRIDS.get(name, name)
    dims = {dim for point in model.hook_points(points) for dim in point.site.dims}
    inner = "head" if "head" in dims else "query_pos" if "query_pos" in dims else "pos"
    axes = ("layer", inner) if each is None else tuple(part.strip() for part in each.split(","))
    if source is not None:
        return mi.patch_grid(points, source=source, each=axes)
    return mi.ablation_grid(points, each=axes, intervention=mi.Knockout() if name == "edges" else None)


def answer(logits: Any) -> Any:
    """A stand-in for the metric: the plan does not depend on which logit is read."""
    return logits[:, 0]


def table(topics: list[tuple[str, list[str]]]) -> Table:
    """Topics, and what there is to say about them."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for topic, lines in topics:
        for number, line in enumerate(lines):
            made.add_row(Text(topic if number == 0 else "", "bold"), Text(line))
    return made


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi plan``."""
    return plan
