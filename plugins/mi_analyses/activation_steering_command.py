"""``mi steer``: activation steering from a shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mi_analyses.options import Device, DType, Html, Json, ModelName, Prompt, Quantise, check_folders, deliver, numbers

__all__ = ["steer"]

Prompts = list[str] | None


def steer(
    model: ModelName,
    text: Prompt,
    answer: Annotated[str, typer.Option(help="The token to follow, such as ' loved'.", show_default=False)],
    wrong: Annotated[
        str | None, typer.Option(help="The other token; without it the answer's logit is measured.")
    ] = None,
    positive: Annotated[
        Prompts, typer.Option(help="A prompt that has it; again for more, or @FILE, one a line.")
    ] = None,
    negative: Annotated[Prompts, typer.Option(help="A prompt that does not; the same.")] = None,
    vector: Annotated[Path | None, typer.Option(help="A saved vector, instead of prompts.", exists=True)] = None,
    strengths: Annotated[str, typer.Option(help="Multiples of the vector.")] = "-2,-1,0,1,2",
    layers: Annotated[str | None, typer.Option(help="Vectors of these layers only, such as 1,2.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Also remove the direction wherever it is written.")] = False,
    target: Annotated[float | None, typer.Option(help="Find the strength that gives this.")] = None,
    new: Annotated[int, typer.Option(help="Write on, so many tokens, at each dose.", min=0)] = 0,
    save: Annotated[Path | None, typer.Option(help="Keep the vector of the layer that moves most.")] = None,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """What does adding a vector do to what the model says?

    The vector is the difference of the means over two kinds of prompts. Prints a dose-response curve for each layer.
    """
    check_folders(html, json, save)
    if (vector is None) != bool(positive and negative):
        raise typer.BadParameter("give --positive and --negative prompts, or a --vector")
    doses = numbers(strengths, "--strengths")
    chosen = None if layers is None else [int(layer) for layer in numbers(layers, "--layers")]

    import mi_core as mi
    from mi_analyses.activation_steering import activation_steering
    from mi_analyses.steering_vectors import SteeringVector, steering_vectors

    loaded = mi.load(model, device=device, dtype=dtype, quantise=quantise)
    if vector is not None:
        held = {0: SteeringVector.load(vector)}
    else:
        held = steering_vectors(loaded, prompts(positive), prompts(negative), layers=chosen)
    result = activation_steering(
        loaded,
        text,
        held,
        mi.logit(answer) if wrong is None else mi.logit_diff(answer, wrong),
        strengths=doses,
        remove=remove,
        target=target,
        max_new_tokens=new,
    )
    deliver(result, html, json)
    if save is not None:
        held[result.layer].save(save)
        typer.echo(f"wrote {save}")


def prompts(given: Prompts) -> list[str]:
    """The prompts, and those in files."""
    found: list[str] = []
    for one in given or ():
        path = Path(one[1:])
        if one.startswith("@") and not path.is_file():
            raise typer.BadParameter(f"there is no file {str(path)!r}")
        found += path.read_text(encoding="utf-8").splitlines() if one.startswith("@") else [one]
    return [one for one in found if one.strip()]
