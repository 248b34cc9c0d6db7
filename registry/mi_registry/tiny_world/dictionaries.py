"""How are tiny-world's dictionaries made? ``python -m mi_registry.tiny_world.dictionaries`` makes them again.

A sparse autoencoder of the stream behind each layer, a transcoder of each MLP, and one cross-layer transcoder of all
MLPs, trained on rows of the world that the model was not trained on, and measured on others. Everything goes to
``--out``: a checkpoint of each, which the same command goes on from, the files that are shipped in float16, and
``dictionaries.json`` with the figures. ``--page`` writes them onto a registry page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

import mi_core as mi
from mi_dictionaries.evaluation import Evaluation, evaluate
from mi_dictionaries.loading import load
from mi_dictionaries.sets import DictionarySet
from mi_dictionaries.training import (
    BatchTopK,
    CrossLayer,
    LiveActivations,
    Options,
    StoredActivations,
    TrainingConfig,
    train,
)
from mi_dictionaries.writing import save_circuit_tracer, save_saelens
from mi_registry.tiny_world import page
from mi_registry.tiny_world.rows import Vocabulary, batch
from mi_registry.tiny_world.train import Interrupt, Recipe

__all__ = ["RECIPES", "DictionaryRecipe", "activations", "figures", "with_dictionaries", "world_rows", "write"]

SEED, HELD_OUT = 1, 2
"""The seeds of the rows that dictionaries are trained and measured on; the model's own rows have seed 0."""
TOKENS = 3 * 2**18
"""Tokens of which activations are kept; trained on several times."""
LAYERS = 4
HELD_OUT_RUNS = 4
"""Batches of 3,072 tokens that dictionaries are measured on."""
SHOWN = ("l0", "explained_variance", "ce_recovered", "kl_recovered")
HEADING = "# Sparse dictionaries, written by mi_registry.tiny_world.dictionaries; NAME is read as tiny-world/NAME."


@dataclass(frozen=True)
class DictionaryRecipe:
    """A dictionary's folder, its points, and how it is trained."""

    folder: str
    points: tuple[str, ...]
    options: Options
    tokens: int

    @property
    def config(self) -> TrainingConfig:
        """The same for all but the tokens."""
        return TrainingConfig(
            tokens=self.tokens,
            batch=2048,
            lr=2e-3,
            lr_warm_up_steps=50,
            lr_decay_steps=self.tokens // 2048 // 3,
            dead_feature_window=200,
            normalise="expected_average_only_in",
            mean_start=True,
            mix_tokens=2**17,
            checkpoint_every=100,
        )


def recipes() -> Iterator[DictionaryRecipe]:
    """Every dictionary that is shipped."""
    for layer in range(LAYERS):
        point = f"blocks.{layer}.hook_resid_post"
        yield DictionaryRecipe(f"sae/{point}", (point,), BatchTopK(d_sae=768, k=20), 3_000_000)
    reads = tuple(f"blocks.{layer}.mlp.hook_in" for layer in range(LAYERS))
    writes = tuple(f"blocks.{layer}.hook_mlp_out" for layer in range(LAYERS))
    for layer, (read, write) in enumerate(zip(reads, writes, strict=True)):
        yield DictionaryRecipe(f"transcoders/layer_{layer}", (read, write), BatchTopK(d_sae=768, k=20), 3_000_000)
    yield DictionaryRecipe("clt", (*reads, *writes), CrossLayer(d_sae=384, activation="batchtopk", k=32), 3_000_000)


RECIPES = tuple(recipes())

DATA = {
    "command": "python -m mi_registry.tiny_world.dictionaries",
    "activations": "rows of the world of another seed than the model's; measured on those of a third",
    "tokens_kept": TOKENS,
    "held_out_tokens": HELD_OUT_RUNS * 48 * 64,
    "dtype": "float16",
}


def world_rows(seed: int) -> Callable[[int], Int[Tensor, "row column"]]:
    """Rows of the world by number, as many tokens in each batch."""
    text = (files("mi_registry") / "tiny_world" / "tokenizer.json").read_text(encoding="utf-8")
    words = Tokenizer.from_str(text)
    vocabulary, recipe = Vocabulary.of(words), Recipe()

    def rows(number: int) -> Int[Tensor, "row column"]:
        drawn = batch(number, seed=seed, tokenizer=words, vocabulary=vocabulary, shape=recipe.shape(number))
        return drawn.ids

    return rows


def activations(model: mi.Model, tokens: int = TOKENS) -> StoredActivations:
    """The activations of all points over rows of the world, in float16: once for all dictionaries."""
    points = tuple(dict.fromkeys(point for recipe in RECIPES for point in recipe.points))
    recipe = Recipe()
    live = LiveActivations(model, world_rows(SEED), points, recipe.rows * recipe.columns)
    size = 2**16
    parts = [live.chunk(number, size).half() for number in range(tokens // size)]
    columns = {
        point: torch.cat([torch.split(part, list(live.widths), dim=1)[index] for part in parts])
        for index, point in enumerate(live.points)
    }
    return StoredActivations(columns, about={"model": "tiny-world", "rows_seed": SEED})


def make(recipe: DictionaryRecipe, stored: StoredActivations, out: Path, stopped: Callable[[], bool]) -> Any:
    """Train one, or take up its checkpoint; None where ``stopped`` ended it."""
    source = StoredActivations(stored.columns, recipe.points, stored.about)
    return train(source, recipe.options, recipe.config, out=out / "runs" / recipe.folder, stopped=stopped)


def halved(found: Any) -> Any:
    """The same dictionary, or set, in float16."""
    if isinstance(found, Tensor):
        return found.half()
    if is_dataclass(found) and not isinstance(found, type):
        changed = {each.name: halved(getattr(found, each.name)) for each in fields(found) if each.init}
        return replace(found, **changed)
    return tuple(map(halved, found)) if isinstance(found, tuple) else found


def write(made: Mapping[str, Any], folder: Path) -> None:
    """The files that are shipped: autoencoders as SAELens has them, both sets as circuit-tracer has them."""
    for name, found in made.items():
        if name.startswith("sae/"):
            save_saelens(halved(found), folder / name)
    layers = tuple(halved(found) for name, found in made.items() if name.startswith("transcoders/"))
    save_circuit_tracer(DictionarySet(layers, layers[0].about), folder / "transcoders", model="tiny-world")
    save_circuit_tracer(halved(made["clt"]), folder / "clt", model="tiny-world")


def figures(model: mi.Model, folder: Path) -> dict[str, dict[str, Any]]:
    """The measures of every dictionary as it was written, on rows that nothing was trained on."""
    rows = world_rows(HELD_OUT)
    batches = [rows(number) for number in range(HELD_OUT_RUNS)]
    transcoders, found = load(folder / "transcoders"), {}
    for recipe in RECIPES:
        name = recipe.folder
        one = transcoders[int(name[-1])] if name.startswith("transcoders/") else load(folder / name)
        found[name] = {
            "architecture": recipe.options.architecture,
            "d_sae": recipe.options.d_sae,
            "tokens": recipe.tokens,
            **measured(evaluate(model, one, batches)),
        }
    return found


def measured(found: Evaluation) -> dict[str, Any]:
    """What the page says; of a set also how much is recovered with fewer layers replaced."""
    values: dict[str, Any] = {name: getattr(found, name) for name in SHOWN}
    recovered = found.behaviour.sel(measure="ce_recovered").values.tolist()
    if len(recovered) > 1:
        values["ce_recovered_by_layers_replaced"] = [round(value, 4) for value in recovered]
    return {**values, "dead": int(found.dead), "features": int((~found.density.values.isnan()).sum())}


def with_dictionaries(text: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """A registry page with the measures of its dictionaries at its end, in the place of those that were there.

    >>> with_dictionaries("a = 1", {"clt": {"l0": 31.5}}).splitlines()[-2:]
    ['[dictionaries."clt"]', 'l0 = 31.5']
    """
    above = text.split(HEADING)[0].rstrip("\n")
    lines = [above, "", HEADING, *page.table("dictionary_data", DATA)]
    for name, values in found.items():
        lines += page.table(f'dictionaries."{name}"', values)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, write, measure."""
    parser = argparse.ArgumentParser(description="Train tiny-world's dictionaries; the same command resumes.")
    parser.add_argument("--out", type=Path, default=Path("tiny-world-dictionaries"), help="folder for what it makes")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--page", type=Path, help="write the figures onto this registry page")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model, stopped = mi.load("tiny-world"), Interrupt()
    made: dict[str, Any] = {}
    stored = activations(model)
    for recipe in RECIPES:
        made[recipe.folder] = make(recipe, stored, asked.out, stopped)
        if made[recipe.folder] is None:
            print(f"Stopped. The same command goes on from {asked.out}.", file=sys.stderr)
            raise SystemExit(130)
    write(made, asked.out / "files")
    found = figures(model, asked.out / "files")
    (asked.out / "dictionaries.json").write_text(json.dumps(found, indent=2) + "\n")
    for name, values in found.items():
        print(f"{name:<28} " + "  ".join(f"{key} {values[key]:.4g}" for key in SHOWN))
    if asked.page:
        text = asked.page.read_text(encoding="utf-8")
        asked.page.write_text(with_dictionaries(text, found), encoding="utf-8")


if __name__ == "__main__":
    main()
