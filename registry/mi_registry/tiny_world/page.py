"""What does the registry say about tiny-world? The page, written from the figures of one or more trainings.

``python -m mi_registry.tiny_world.page RUN [RUN ...]`` prints it: the scores of the first run, and as spread the
largest distance of each score from the other runs'. The page of another model of the same world has tiny-world's scores
beside its own.
"""

from __future__ import annotations

import json
import platform
import sys
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from mi_registry.tiny_world import sentences, splits, words
from mi_registry.tiny_world.checkpoint import Spent
from mi_registry.tiny_world.prompts import SEQUENCE_LENGTH
from mi_registry.tiny_world.world import COUNTRIES, PHRASINGS, facts

__all__ = ["figures", "render", "statistics"]

COMMAND = "python -m mi_registry.tiny_world.train"

SKILLS = "trained on a generated world of facts, names, agreement, opinions, sums and repetition."
SUMMARIES = {
    "llama": f"A LLaMA of four layers, {SKILLS}",
    "rwkv7": f"An RWKV-7 of four layers, {SKILLS}",
}
"""One line about each architecture that was trained; `train` trains any other, too."""

SIZES = (
    ("layers", "num_hidden_layers"),
    ("d_model", "hidden_size"),
    ("heads", "num_attention_heads"),
    ("heads", "num_heads"),
    ("kv_heads", "num_key_value_heads"),
    ("d_vocab", "vocab_size"),
    ("n_ctx", "max_position_embeddings"),
)
"""What the page calls a size, and what the config does, where it has it."""

COMPARED = ("top1", "logit_difference", "loss")
"""Figures that every model has."""

HELD_OUT = {
    "facts": "each fact in the one phrasing in which it was never said",
    "indirect_object": "pairs of names that never met in one row; the mistake is the giver",
    "agreement": "pairs of nouns that never met in one row; right is every verb of the subject's number",
    "sentiment": "adjectives never said of this thing, plain and negated; the mistake is the other reaction",
    "modular_sums": "numbers that were never added under this modulus, in either order",
    "induction": f"a random sequence of {SEQUENCE_LENGTH} tokens, twice; loss in nats behind the repetition's first",
}


def statistics() -> dict[str, int]:
    """How large is the world, and how much of it is held out? Counted from the generator."""
    names = [splits.names_are_held_out(*pair) for pair in combinations(words.NAMES, 2)]
    nouns = [splits.nouns_are_held_out(first, second) for (first, _), (second, _) in combinations(words.NOUNS, 2)]
    opinions = [
        splits.opinion_is_held_out(thing, adjective)
        for thing in words.THINGS
        for adjective in words.POSITIVE + words.NEGATIVE
    ]
    sums = [splits.sum_is_held_out(*each) for each in sentences.EVERY_SUM]
    return {
        "countries": len(COUNTRIES),
        "facts": len(facts()),
        "phrasings": sum(map(len, PHRASINGS.values())),
        "facts_in_phrasings": len(sentences.FACTS) + len(facts()),
        "facts_in_phrasings_held_out": len(facts()),
        "names": len(words.NAMES),
        "name_pairs": len(names),
        "name_pairs_held_out": sum(names),
        "nouns": len(words.NOUNS),
        "noun_pairs": len(nouns),
        "noun_pairs_held_out": sum(nouns),
        "opinions": len(opinions),
        "opinions_held_out": sum(opinions),
        "sums": len(sums),
        "sums_held_out": sum(sums),
    }


def figures(
    folder: Path, recipe: Mapping[str, Any], spent: Spent, scores: Mapping[str, Mapping[str, float | int]]
) -> dict[str, Any]:
    """What one training says about itself: model, training and scores, as its ``training.json`` holds them."""
    config = json.loads((folder / "config.json").read_text())
    weights = folder / "model.safetensors"
    with safe_open(weights, framework="pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - no mapping
    model = {
        "model_type": config["model_type"],
        "parameters": sum(torch.Size(shape).numel() for shape in shapes),
        "dtype": config["dtype"],
        "weights_bytes": weights.stat().st_size,
        **{name: config[key] for name, key in SIZES if key in config},
    }
    steps = recipe.get("steps_done", recipe["steps"])
    training = {
        "command": COMMAND if model["model_type"] == "llama" else f"{COMMAND} --config {config_file(model)}",
        **recipe,
        "tokens": steps * recipe["rows"] * recipe["columns"],
        "minutes": round(spent.wall / 60, 1),
        "processor_minutes": round(spent.cpu / 60, 1),
        "processor": platform.machine(),
        "torch": torch.__version__,
    }
    return {"model": model, "training": training, "scores": {skill: dict(score) for skill, score in scores.items()}}


def name_of(model: Mapping[str, Any]) -> str:
    """What an embedded model is called: the transformer's world is tiny-world, others add their architecture.

    >>> name_of({"model_type": "llama"}), name_of({"model_type": "rwkv7"})
    ('tiny-world', 'tiny-world-rwkv7')
    """
    kind = model.get("model_type", "llama")
    return "tiny-world" if kind == "llama" else f"tiny-world-{kind}"


def folder_of(model: Mapping[str, Any]) -> str:
    """The folder that it is embedded in."""
    return name_of(model).replace("-", "_")


def config_file(model: Mapping[str, Any]) -> str:
    """Where its config is, in the repository."""
    return f"registry/mi_registry/{folder_of(model)}/config.json"


def beside(model: Mapping[str, Any], skill: str) -> dict[str, float]:
    """What the transformer of the same world scores, on the page of another architecture."""
    if name_of(model) == "tiny-world":
        return {}
    scores = tomllib.loads((files("mi_registry") / "tiny-world.toml").read_text(encoding="utf-8"))["scores"]
    return {f"tiny_world_{name}": scores[skill][name] for name in scores[skill] if name in COMPARED}


def render(runs: Sequence[Mapping[str, Any]]) -> str:
    """The page of the first run; the others only say how far scores spread.

    >>> render([{"model": {"layers": 4}, "training": {}, "scores": {}}]).splitlines()[:2]
    ['# Written by mi_registry.tiny_world.page from the figures of the training; change nothing here by hand.', '']
    """
    shipped, *others = runs
    model = shipped["model"]
    kind = model.get("model_type", "llama")
    lines = [
        "# Written by mi_registry.tiny_world.page from the figures of the training; change nothing here by hand.",
        "",
        *entries({"name": name_of(model), "embedded": folder_of(model)}),
        *entries({"summary": SUMMARIES.get(kind, f"A {kind}, {SKILLS}"), "licence": "Apache-2.0"}),
        *entries({"data_licence": "Apache-2.0 (generated by this package; the facts are common knowledge)"}),
        *table("model", shipped["model"]),
        *table("data", statistics()),
        *table("training", shipped["training"]),
    ]
    for skill, score in shipped["scores"].items():
        lines += table(f"scores.{skill}", {"held_out": HELD_OUT[skill], **score, **beside(model, skill)})
    if others:
        lines += ["", "# The largest distance of each score from those of other trainings by the same recipe."]
        lines += table("spread", {key: [run["training"][key] for run in others] for key in ("seed", "device")})
        for skill in shipped["scores"]:
            lines += table(f"spread.{skill}", spread(skill, shipped, others))
    return "\n".join(lines) + "\n"


def spread(skill: str, shipped: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How far each figure of a skill lies from the other runs' at most."""
    score = shipped["scores"][skill]
    names = [name for name in score if name in (*COMPARED, "best_head")]
    return {name: max(abs(run["scores"][skill][name] - score[name]) for run in others) for name in names}


def table(name: str, values: Mapping[str, Any]) -> list[str]:
    """One TOML table."""
    return ["", f"[{name}]", *entries(values)]


def entries(values: Mapping[str, Any]) -> list[str]:
    """TOML's ``key = value`` lines; numbers with four decimals."""
    return [f"{key} = {toml(rounded(value))}" for key, value in values.items()]


def toml(value: Any) -> str:
    """A value as TOML has it."""
    # JSON's strings, numbers, booleans and arrays are TOML's, but for one control character that JSON does not escape.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def rounded(value: Any) -> Any:
    """A score with four decimals; a setting, which may be smaller, as it is."""
    return round(value, 4) if isinstance(value, float) and abs(value) >= 1e-4 else value


def main() -> None:
    """Print the page for the folders given."""
    print(render([json.loads((Path(folder) / "training.json").read_text()) for folder in sys.argv[1:]]), end="")


if __name__ == "__main__":
    main()
