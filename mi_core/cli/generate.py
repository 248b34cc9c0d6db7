"""``mi generate``: let a model write on from a shell."""

from __future__ import annotations

import json as json_text
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mi_core.hookspecs import hookimpl

__all__ = ["mi_command"]


def generate(
    model: Annotated[str, typer.Argument(help="An embedded model, a folder (./name) or a Hub id.", show_default=False)],
    text: Annotated[str, typer.Argument(help="The prompt.", show_default=False)],
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", help="Tokens to write at most.")] = 40,
    spec: Annotated[
        Path | None, typer.Option(help="Interventions: a spec that was saved with spec.save(FILE).", dir_okay=False)
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")] = False,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token; above, tokens are sampled.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Sample among so many.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among the likeliest of this probability.")] = None,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, tokens that are there get less likely.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Of the sampling; drawn and shown if there is none.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop at this text. May be repeated.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write tokens, text and receipt.", dir_okay=False)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (the checkpoint's), float32, bfloat16, float16.")] = "auto",
    quantise: Annotated[str | None, typer.Option(help="Hold matrices in eight bits: int8 or float8.")] = None,
) -> None:
    """Write on behind a prompt, token by token, under interventions if a spec is given."""
    if json is not None and not json.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {str(json.parent)!r} to write {json.name!r} into")

    import mi_core as mi
    from mi_core.cli.console import output

    console = output()
    written = None if spec is None else mi.HookSpec.load(spec)
    loaded = mi.load(model, device=device, dtype=dtype, quantise=quantise)
    console.print(text, style="dim", end="", markup=False, soft_wrap=True)

    def say(_row: int, piece: str, _token: int) -> None:
        console.print(piece, end="", markup=False, soft_wrap=True)

    made = loaded.generate(
        mi.Chat([{"role": "user", "content": text}]) if chat else text,
        written,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop or (),
        stream=say,
    )
    console.print()
    sampled = "" if made.seed is None else f", seed {made.seed}"
    console.print(f"{len(made.new_tokens[0])} tokens, {made.ended[0]}{sampled}", style="dim", markup=False)
    for note in made.receipt.notes:
        console.print(f"note: {note}", style="dim", markup=False, soft_wrap=True)
    if json is not None:
        data = {"text": made.text[0], "ids": made.new_tokens[0], "ended": made.ended[0], "seed": made.seed}
        json.write_text(json_text.dumps({"prompt": text, **data, "receipt": made.receipt.to_json()}), encoding="utf-8")


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi generate``."""
    return generate
