"""Measures families against the reference and writes their registry pages: ``python write_pages.py [FAMILY ...]``."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp

sys.path.insert(0, str(Path(__file__).parents[1]))

import test_float64 as double
import test_parity as parity
import transformers
from checkpoints import reference, reference_run, save
from family_examples import YOUNG

import mi_core as mi

PAGES = Path(__file__).parents[2] / "registry" / "mi_registry"
GREEDY = "sixteen tokens of two rows, the same as the reference's"


def measured(names: list[str]) -> dict[str, float]:
    """The largest differences over a family's examples, rounded up to one digit."""
    parity.seen.clear()
    for name in names:
        parity.test_logits_streams_and_patterns_are_the_reference_s(name)
        if name in parity.MIXTURES:
            parity.test_router_logits_are_the_reference_s(name)
        for side in ("left", "right"):
            parity.test_padded_batches_are_the_reference_s(name, side)
        parity.test_sixteen_greedy_tokens_are_the_reference_s(name)
        parity.test_prefix_then_rest_is_the_whole(name)
        parity.test_every_spelling_of_a_config_means_the_same(name)
    return {what: float(f"{1.5 * figure:.0e}") for what, figure in parity.seen.items()}


def in_bfloat16(names: list[str]) -> str:
    """How far logits in bfloat16 lie from the reference's, in words."""
    worst = 0.0
    for name in names:
        theirs = reference(parity.EXAMPLES[name], dtype="bfloat16")
        wanted = reference_run(theirs, parity.tokens()).logits.float()
        # somebody looks at the pattern, so that both compute scores step by step
        looked = mi.capture("blocks.*.attn.hook_pattern")
        ours = mi.load(str(save(theirs, Path(mkdtemp())))).run(parity.tokens(), looked).logits.float()
        worst = max(worst, ((ours - wanted).abs().max() / wanted.abs().max()).item())
    return f"within {100 * worst:.1f} % of the largest logit" if worst else "the same bits, with explicit scores"


def in_float64(family: str) -> str:
    """What is verified in double precision, in words."""
    if family in double.NOT_WIDE:
        return f"not compared with the reference: {double.NOT_WIDE[family]}"
    if family in double.OTHERWISE_NARROW:
        return f"logits within 1e-6, from one file and from several; the reference: {double.OTHERWISE_NARROW[family]}"
    return f"logits within {double.BOUND:.0e}, from one file and from several"


def page(family: str) -> str:
    """The page of a family: what its file says of it, and what was measured."""
    names = [name for name in parity.EXAMPLES if name.rpartition("-")[0] == family]
    figures = measured(names)
    doc = " ".join((import_module(f"mi_families.{family.replace('-', '_')}").__doc__ or "").split())
    summary, traits, source = re.fullmatch(r"(.+?) Traits: (.+) Source: (.+)", doc).groups()  # type: ignore[union-attr]
    reference = type(parity.pair(names[0])[0]).__name__
    version = ".".join(transformers.__version__.split(".")[:2])
    lines = [
        f"name = {json.dumps(family)}",
        f"summary = {json.dumps(summary)}",
        f"model_type = {json.dumps(family)}",
        f"source = {json.dumps(source)}",
        f"reference = {json.dumps(f'transformers {version}, {reference} with eager attention')}",
        "",
        "[supported]",
        f"traits = {json.dumps(traits)}",
        f'config_spellings = "{"transformers 5" if family in YOUNG else "transformers 4 and transformers 5"}"',
        'checkpoints = "safetensors, one file or a sharded index; with or without the prefix of the whole model"',
        "",
        "[verified]",
        f'how = "against the reference on random weights, gains and biases included; {len(names)} tiny configs"',
        'command = "pytest tests/mi_families"',
        f"greedy = {json.dumps(GREEDY)}",
        f"bfloat16 = {json.dumps(in_bfloat16(names))}",
        f"float64 = {json.dumps(in_float64(family))}",
        'conformance = "every check that applies"',
        "",
        "[verified.largest_difference]",
        *(f"{json.dumps(what)} = {figure:.0e}" for what, figure in sorted(figures.items())),
        "",
        "[not_verified]",
        'published_checkpoints = "none was downloaded for these checks"',
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for wanted in sys.argv[1:] or parity.FAMILIES:
        (PAGES / f"{wanted}.toml").write_text(page(wanted), encoding="utf-8")
        print(wanted, dict(parity.seen))
