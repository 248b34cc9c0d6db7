"""Writes what the guide does not type by hand: ``python docs/generate.py``.

The tables of points come from the vocabulary, the tree of errors from its module, the hook reference from docstrings,
and the outputs behind code blocks from running them.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pages

from mi_core import errors, hookspecs, plugins, vocabulary

HERE = Path(__file__).parent
ROOT = HERE.parent
CORE = (
    *("hook_embed", "hook_resid_pre", "attn.hook_q", "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z"),
    *("hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_mlp_out", "hook_resid_post", "hook_logits"),
)


def lookalikes() -> str:
    """Names that look alike, in pairs."""
    pairs = ["| one | the other | what tells them apart |", "|---|---|---|"]
    return "\n".join(pairs + [f"| `{one}` | `{other}` | {what} |" for one, other, what in vocabulary.LOOKALIKES])


def site_table(names: Iterable[str]) -> str:
    """Rows of the vocabulary."""
    rows = ["| site | dims | meaning | |", "|---|---|---|---|"]
    for name in names:
        row = vocabulary.STANDARD[name]
        full = f"blocks.i.{name}" if row.in_layer else name
        dims = " ".join("1" if dim == "one" else dim for dim in row.dims)
        rows.append(f"| `{full}` | {dims} | {row.meaning} | {', '.join(flags(row))} |")
    return "\n".join(rows)


def flags(row: vocabulary.Standard) -> Iterator[str]:
    """What is special about a site."""
    if row.read_only:
        yield f"read-only: {row.read_only}"
    if row.on_demand:
        yield "on demand"
    if row.replaces_kernel:
        yield "kernel"
    if row.keeps_masked:
        yield "keeps its mask"


def error_tree() -> str:
    """The tree as the module draws it."""
    text = inspect.getdoc(errors) or ""
    drawn = textwrap.dedent(text[text.index("    MiError") :])
    return f"```\n{drawn}\n```"


def error_table() -> str:
    """Every error with the first line of its docstring."""
    rows = [
        f"| `{name}` | {(inspect.getdoc(getattr(errors, name)) or '').partition(chr(10))[0]} |"
        for name in errors.__all__
    ]
    return "\n".join(["| error | when |", "|---|---|", *rows])


def hook_reference() -> str:
    """Every hook of the contract, from its docstring."""
    groups = {hook: group for group, hook in plugins.HOOKS.items()}
    parts = []
    for name, function in inspect.getmembers(hookspecs, inspect.isfunction):
        if not name.startswith("mi_"):
            continue
        group = groups.get(name)
        where = f"The hook of the group `{group}`." if group else "Beside the hook of its group."
        parts.append(f"#### `{name}{signature(function)}`\n\n{inspect.getdoc(function)}\n\n{where}\n")
    return "\n".join(parts)


def signature(function: Callable[..., object]) -> str:
    """A signature without the quotes of its annotations."""
    return str(inspect.signature(function)).replace("'", "")


def filled(path: Path, **contents: str) -> str:
    """A page with new content between its marks."""
    text = path.read_text(encoding="utf-8")
    for name, content in contents.items():
        words = name.replace("_", " ")
        marks = re.compile(rf"(<!-- {words}: written by docs/generate.py -->\n).*?(<!-- end -->)", re.DOTALL)
        if not marks.search(text):
            raise SystemExit(f"{path.name} has no marks for {words!r}")
        text = marks.sub(lambda match, new=content: f"{match[1]}{new}\n{match[2]}", text)
    return text


def generated() -> dict[Path, str]:
    """Every page of which a part is written here, as it should be; outputs aside."""
    parts = {
        ROOT / "README.md": {"core_points": site_table(CORE)},
        HERE / "hook_points.md": {"sites": site_table(vocabulary.STANDARD), "lookalikes": lookalikes()},
        HERE / "errors.md": {"tree": error_tree(), "errors": error_table()},
        HERE / "writing_a_plugin.md": {"hooks": hook_reference()},
    }
    return {path: filled(path, **contents) for path, contents in parts.items()}


def main() -> None:
    """Write all of it; with names of pages, only their outputs."""
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
    chosen = [Path(name).resolve() for name in sys.argv[1:]]
    for path in chosen or [ROOT / "README.md", *sorted(HERE.glob("*.md"))]:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            text = pages.with_outputs(path)
        if text != path.read_text(encoding="utf-8"):
            print(f"outputs of {path.relative_to(ROOT)} changed")
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
