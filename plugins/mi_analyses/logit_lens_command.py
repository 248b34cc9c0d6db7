"""``mi lens``: the logit lens from a shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["lens"]


def lens(
    model: Annotated[str, typer.Argument(help="An embedded model, a folder (./name) or a Hub id.", show_default=False)],
    text: Annotated[str, typer.Argument(help="The prompt.", show_default=False)],
    top: Annotated[int, typer.Option(help="How many tokens to show for each layer.", min=1)] = 5,
    pos: Annotated[str, typer.Option(help="Position on the prompt's tokens, -1 for the last, or 'all'.")] = "-1",
    token: Annotated[
        list[str] | None, typer.Option(help="Follow this token as well, such as ' Rome'. May be repeated.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page.", dir_okay=False)] = None,
    json: Annotated[Path | None, typer.Option(help="Write the numbers with their provenance.", dir_okay=False)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (the checkpoint's), float32, bfloat16, float16.")] = "auto",
) -> None:
    """What would the model say next if it stopped after this layer?

    Prints, layer by layer, the answer's probability and rank, entropy and KL in nats, and the likeliest tokens.
    """
    from mi_core.cli.console import output

    position = None if pos == "all" else whole(pos)
    for path in (html, json):
        if path is not None and not path.parent.is_dir():
            raise typer.BadParameter(f"there is no folder {str(path.parent)!r} to write {path.name!r} into")

    import mi_core as mi
    from mi_analyses.logit_lens import logit_lens

    loaded = mi.load(model, device=device, dtype=dtype)
    result = logit_lens(loaded, text, top=top, pos=position, tokens=tuple(token or ()))
    output().print(result)
    for path, write in ((html, result.to_html), (json, result.to_json)):
        if path is not None:
            write(path)
            output().print(f"wrote {path}", style="dim", markup=False, highlight=False, soft_wrap=True)


def whole(pos: str) -> int:
    """A position as an int."""
    try:
        return int(pos)
    except ValueError:
        raise typer.BadParameter(f"{pos!r} is no position: give an integer or 'all'", param_hint="--pos") from None
