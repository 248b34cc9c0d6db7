"""Measures families against the reference and writes their registry pages: ``python write_pages.py [FAMILY ...]``.

Of a page that is there, what it says is supported stays; what was verified, and how far it is off, is measured anew.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp

sys.path.insert(0, str(Path(__file__).parents[1]))

import test_float64 as double
import test_parity as parity
import test_toy_models as toys
import transformers
from checkpoints import reference, reference_run, save
from family_examples import NORMED_READINGS, WITHOUT_ATTENTION, YOUNG, examples_of, pattern_points

import mi_core as mi
from mi_core.testing import run_checks, subjects

PAGES = Path(__file__).parents[2] / "registry" / "mi_registry"
ROWS_OF_THEIR_OWN = ("llama-3", "llama-5")
"""Examples whose frequencies follow each row's length, and in the reference the longest row's (see test_llama.py)."""
RECORDED = ("hooked_transformer",)
"""Families whose reference is recorded."""
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
        looked = mi.capture(pattern_points(name))
        ours = mi.load(str(save(theirs, Path(mkdtemp())))).run(parity.tokens(), looked).logits.float()
        worst = max(worst, ((ours - wanted).abs().max() / wanted.abs().max()).item())
    how = "" if names[0].rpartition("-")[0] in WITHOUT_ATTENTION else ", with explicit scores"
    return f"within {100 * worst:.1f} % of the largest logit" if worst else f"the same bits{how}"


def in_float64(family: str) -> str:
    """What double precision shows, in words; fails where it shows something else."""
    if family in double.NOT_WIDE:
        return f"not compared with the reference: {double.NOT_WIDE[family]}"
    double.test_double_precision_is_the_reference_s_from_one_file_or_several(family, Path(mkdtemp()))
    if family in double.OTHERWISE_NARROW:
        return f"logits within 1e-6, from one file and from several; the reference: {double.OTHERWISE_NARROW[family]}"
    return f"logits within {double.BOUND:.0e}, from one file and from several"


def kit(family: str) -> str:
    """What the conformance kit finds on a family's first example, in words."""
    report = run_checks(subjects(family)[0], examples=1)
    if not report.passed:
        raise SystemExit(f"{family}: {report.failures or report.stopped}")
    return f"all {len(report.outcomes)} checks that apply, on the first config"


def against_transformers(family: str) -> tuple[str, list[str]]:
    """The reference of a family, and the lines of what is verified against it."""
    if family not in parity.FAMILIES:
        parity.EXAMPLES.update(examples_of(family))
    names = [name for name in parity.EXAMPLES if name.rpartition("-")[0] == family and name not in ROWS_OF_THEIR_OWN]
    figures = measured(names)
    parts = "; differences are parts of the largest number" if family in NORMED_READINGS else ""
    version = ".".join(transformers.__version__.split(".")[:2])
    return f"transformers {version}, {type(parity.pair(names[0])[0]).__name__} with eager attention", [
        f'how = "against the reference on random weights, gains and biases included; {len(names)} tiny configs{parts}"',
        'command = "pytest tests/mi_families"',
        f"greedy = {json.dumps(GREEDY)}",
        f"bfloat16 = {json.dumps(in_bfloat16(names))}",
        f"float64 = {json.dumps(in_float64(family))}",
        f"conformance = {json.dumps(kit(family))}",
        *largest(figures),
    ]


def against_recordings(family: str) -> tuple[str, list[str]]:
    """The same of toy models, whose reference is recorded."""
    figures: dict[str, float] = {}
    for name in toys.CONFIGS:
        found = toys.recorded(name)
        model = mi.load(str(toys.folder_of(name, Path(mkdtemp()))), device="cpu")
        wanted = {"logits": found["logits"], **toys.part(found, "cache/")}
        run = model.run(found["tokens"], mi.capture([key for key in wanted if key != "logits"]))
        for key, value in wanted.items():
            what = "logits" if key == "logits" else "patterns" if key.endswith("hook_pattern") else "activations"
            difference = ((run.logits if key == "logits" else run[key]) - value).abs()
            figures[what] = max(figures.get(what, 0.0), difference[~value.isneginf()].max().item())
    configs = len(toys.CONFIGS)
    return f"TransformerLens {toys.VERSION}, HookedTransformer", [
        f'how = "against what the reference computed on random weights and gains; {configs} tiny configs"',
        'command = "pytest tests/mi_families/test_toy_models.py"',
        'saved = "the reference\'s state dict is written again, bit for bit"',
        f"conformance = {json.dumps(kit(family))}",
        *largest({what: float(f"{1.5 * figure:.0e}") for what, figure in figures.items()}),
    ]


def largest(figures: dict[str, float]) -> list[str]:
    """The lines of the largest differences."""
    table = ["", "[verified.largest_difference]"]
    return table + [f"{json.dumps(what)} = {figure:.0e}" for what, figure in sorted(figures.items())]


def supported(family: str, traits: str) -> list[str]:
    """What a page says that is supported; of a new one, what the family's file says."""
    there = PAGES / f"{family}.toml"
    if there.exists():
        values = tomllib.loads(there.read_text(encoding="utf-8"))["supported"]
        return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return [
        f"traits = {json.dumps(traits)}",
        f'config_spellings = "{"transformers 5" if family in YOUNG else "transformers 4 and transformers 5"}"',
        'checkpoints = "safetensors, one file or a sharded index; with or without the prefix of the whole model"',
    ]


def page(family: str) -> str:
    """The page of a family: what its file says of it, and what was measured."""
    doc = " ".join((import_module(f"mi_families.{family.replace('-', '_')}").__doc__ or "").split())
    summary, traits, source = re.fullmatch(r"(.+?) Traits: (.+) Source: (.+)", doc).groups()  # type: ignore[union-attr]
    measure = against_recordings if family in RECORDED else against_transformers
    reference, verified = measure(family)
    lines = [
        f"name = {json.dumps(family)}",
        f"summary = {json.dumps(summary)}",
        f"model_type = {json.dumps(family)}",
        f"source = {json.dumps(source)}",
        f"reference = {json.dumps(reference)}",
        "",
        "[supported]",
        *supported(family, traits),
        "",
        "[verified]",
        *verified,
        "",
        "[not_verified]",
        'published_checkpoints = "none was downloaded for these checks"',
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for wanted in sys.argv[1:] or parity.FAMILIES:
        (PAGES / f"{wanted}.toml").write_text(page(wanted), encoding="utf-8")
        print(wanted, dict(parity.seen))
