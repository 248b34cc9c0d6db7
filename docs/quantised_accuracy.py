"""Writes the table of logits in ``docs/quantised.md``: ``python docs/quantised_accuracy.py``. Half a minute.

Models with weights in eight bits, and in bfloat16 beside them, against float32: 8 rows of 24 tokens that the float32
model has drawn itself. The first are trained; the others are the first example of a family, with random weights.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import mi_core as mi
from mi_core.testing import subjects

PAGE = Path(__file__).parent / "quantised.md"
TRAINED = ("tiny-world", "tiny-world-rwkv7")
FAMILIES = ("llama", "gpt2", "gemma2", "qwen3_moe", "deepseek_v3", "rwkv7")
ROWS, COLUMNS = 8, 24
WAYS = ({"quantise": "int8"}, {"quantise": "float8"}, {"dtype": "bfloat16"})


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = "\n".join(row(name, ref) for name, ref in references(Path(folder)))
    head = "| model | int8 | same token | float8 | same token | bfloat16 | same token |\n|---|---|---|---|---|---|---|"
    marks = re.compile(r"(<!-- weights: written by docs/quantised_accuracy.py -->\n).*?(<!-- end -->)", re.DOTALL)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(marks.sub(lambda match: f"{match[1]}{head}\n{rows}\n{match[2]}", text), encoding="utf-8")


def references(folder: Path) -> Iterator[tuple[str, str]]:
    """Names, and where to load them from."""
    for name in TRAINED:
        yield f"`{name}`, trained", name
    for family in FAMILIES:
        mi.save_model(subjects(family)[0].model, folder / family)
        yield f"`{family}`", str(folder / family)


def row(name: str, ref: str) -> str:
    """One line of the table."""
    wide = mi.load(ref, dtype="float32", device="cpu")
    tokens = drawn(wide)
    expected = wide.run(tokens).logits
    cells = []
    for way in WAYS:
        logits = mi.load(ref, device="cpu", **{"dtype": "float32", **way}).run(tokens).logits.float()
        error = float((logits - expected).norm() / expected.norm())
        same = float((logits.argmax(-1) == expected.argmax(-1)).float().mean())
        cells += [f"{error:.1%}", f"{same:.1%}"]
    line = f"| {name} | {' | '.join(cells)} |"
    print(line, flush=True)
    return line


def drawn(model: mi.Model) -> Tensor:
    """Rows that the model itself finds likely, from different first tokens."""
    first = torch.arange(1, ROWS + 1)[:, None].tolist()
    made = model.generate(first, max_new_tokens=COLUMNS - 1, temperature=1.0, seed=0, stop_at_eos=False)
    return torch.tensor([[*start, *new] for start, new in zip(first, made.new_tokens, strict=True)])


if __name__ == "__main__":
    main()
