"""Writes the table of ``docs/accuracy.md``: ``python docs/accuracy.py [FAMILY ...]``. A minute or two.

Of each family the first example, random weights, 8 rows of 24 tokens. The weights are rounded to the narrow dtype first
and are the same in both runs, so that what is seen is the arithmetic; the reference's own, on the same weights, stands
beside ours where transformers has the family. Choices of experts are held where float32's numbers fall, since a token
that goes to another expert is no error of rounding; the reference's cannot be held.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mi_core as mi
from mi_core import plugins
from mi_core.testing import subjects

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))  # the tests build the reference's checkpoints

ROWS, COLUMNS = 8, 24
NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def main() -> None:
    from family_examples import EXAMPLES

    page = HERE / "accuracy.md"
    marks = re.compile(r"(<!-- budget: written by docs/accuracy.py -->\n)(.*?)(<!-- end -->)", re.DOTALL)
    table = marks.search(page.read_text(encoding="utf-8"))
    assert table, "the page has lost the marks around its table"
    known = {name: line for line, name in re.findall(r"^(\| `([^`]+)` \|.*)$", table[2], re.MULTILINE)}
    families = [name for name, owner in plugins.names("mi_core.families").items() if owner.startswith("mi-core")]
    for family in sys.argv[1:] or families:
        known[family] = row(family, f"{family}-0" in EXAMPLES)
        print(known[family], flush=True)
    rows = "\n".join(known[name] for name in sorted(families) if name in known)
    head = "| family | bfloat16 | the reference's bfloat16 | float16 |\n|---|---|---|---|"
    text = page.read_text(encoding="utf-8")
    page.write_text(marks.sub(lambda match: f"{match[1]}{head}\n{rows}\n{match[3]}", text), encoding="utf-8")


def row(family: str, referenced: bool) -> str:
    """One line of the table."""
    config = plugins.plugin("mi_core.families", family).call("mi_family_examples")[0]
    mixture = any("expert" in key for key in config)
    with tempfile.TemporaryDirectory() as folder:
        theirs = reference_of(f"{family}-0", Path(folder)) if referenced else None
        ours = {name: own_error(family, dtype, folder if referenced else None) for name, dtype in NARROW.items()}
    shown = "" if theirs is None else "re-routed" if mixture else f"{theirs:.1%}"
    return f"| `{family}` | {ours['bfloat16']:.1%} | {shown} | {ours['float16']:.2%} |"


def own_error(family: str, dtype: torch.dtype, folder: str | None) -> float:
    """The largest difference of a logit from float32's, as a part of the largest logit."""
    subject = subjects(family)[0] if folder is None else subjects(folder)[0]
    narrow = subject.in_dtype(dtype)
    wide = narrow.in_dtype(torch.float32).model
    x = inputs(wide)
    routers = [point.name for point in wide.hook_points() if point.site.name == "mlp.hook_router_logits"]
    one = wide.run(x, mi.capture(routers) if routers else None)
    same = mi.intervene(routers, mi.Replace(one)) if routers else None
    return apart(narrow.model.run(x, same).logits, one.logits)


def reference_of(name: str, folder: Path) -> float:
    """The same of the reference, whose weights are written to ``folder`` for us."""
    from checkpoints import reference, reference_run, save
    from family_examples import EXAMPLES, attention

    narrow, wide = (
        reference(EXAMPLES[name], attention=attention(name), dtype=kind) for kind in ("bfloat16", "float32")
    )
    with torch.no_grad():
        for target, source in zip(wide.state_dict().values(), narrow.state_dict().values(), strict=True):
            target.copy_(source)
    save(wide, folder)
    x = torch.randint(0, 61, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(0))
    return apart(reference_run(narrow, x).logits, reference_run(wide, x).logits)


def inputs(model: mi.Model) -> Tensor:
    """Random tokens, or numbers."""
    draw = torch.Generator().manual_seed(0)
    shape = model.shape
    if shape.numbers is not None:
        return torch.randn(ROWS * COLUMNS, shape.numbers, generator=draw)
    return torch.randint(0, shape.d_vocab, (ROWS, min(COLUMNS, shape.n_ctx or COLUMNS)), generator=draw)


def apart(narrow: Any, wide: Any) -> float:
    """The largest difference, as a part of the largest number."""
    return float((narrow.float() - wide.float()).abs().max() / wide.float().abs().max())


if __name__ == "__main__":
    main()
