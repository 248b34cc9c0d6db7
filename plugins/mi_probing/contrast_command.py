"""``mi contrast``: contrast-consistent search from a shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mi_analyses.options import Device, DType, Html, Json, ModelName, Quantise, check_folders, deliver
from mi_probing.probing_command import Layers, Places, Save, Site, columns, keep_best, where

__all__ = ["contrast"]

WORDS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


def contrast(
    model: ModelName,
    pairs: Annotated[
        Path,
        typer.Argument(
            help="A file of lines TRUTH<tab>STATEMENT<tab>NEGATION, with GROUP<tab> behind TRUTH or without.",
            exists=True,
        ),
    ],
    site: Site = "hook_resid_post",
    layers: Layers = None,
    pos: Places = None,
    starts: Annotated[int, typer.Option(help="Searches, of which the most consistent is taken.", min=1)] = 10,
    steps: Annotated[int, typer.Option(help="Steps of a search.", min=1)] = 1000,
    test: Annotated[float, typer.Option(help="The share of the pairs to test on.", min=0.01, max=0.99)] = 0.25,
    seed: Annotated[int, typer.Option(help="Of splits and starts.")] = 0,
    save: Save = None,
    html: Html = None,
    json: Json = None,
    device: Device = "auto",
    dtype: DType = "auto",
    quantise: Quantise = None,
) -> None:
    """Does the model tell true from false, found without labels?

    TRUTH says whether the statement is true (yes or no, true or false, 1 or 0): it only says which end of the direction
    is which, and scores pairs that were held out.
    """
    check_folders(html, json, save)
    said, groups, [statements, negations] = columns(pairs, ("TRUTH", "STATEMENT", "NEGATION"))
    truth = [truth_of(word) for word in said]

    import mi_core as mi
    from mi_probing.contrast_search import ContrastConsistent, contrast_search
    from mi_probing.protocol import Protocol

    result = contrast_search(
        mi.load(model, device=device, dtype=dtype, quantise=quantise),
        statements,
        negations,
        truth,
        **where(groups, site, layers, pos),
        probe=ContrastConsistent(starts, steps, seed),
        protocol=Protocol((1 - test, 0.0, test), control=False, seed=seed),
    )
    deliver(result, html, json)
    keep_best(result, save)


def truth_of(word: str) -> bool:
    """Whether a statement is said to be true.

    Raises:
        BadParameter: the word says neither.
    """
    if (found := WORDS.get(word.strip().lower())) is None:
        raise typer.BadParameter(f"{word!r} says neither true nor false: give one of {', '.join(WORDS)}.")
    return found
