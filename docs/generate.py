"""Writes what the guide does not type by hand: ``python docs/generate.py``.

The page of hook points from the vocabulary, the page of errors from their tree, the hook reference from docstrings, and
the outputs behind code blocks from running them.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pages

from mi_core import errors, hookspecs, plugins, vocabulary

HERE = Path(__file__).parent
ROOT = HERE.parent
NOTE = "<!-- Written by docs/generate.py: change {source} and run it again. -->\n"
CORE = (
    *("hook_embed", "hook_resid_pre", "attn.hook_q", "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z"),
    *("hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_mlp_out", "hook_resid_post", "hook_logits"),
)


def hook_points() -> str:
    """The page of the vocabulary."""
    text = NOTE.format(source="mi_core/vocabulary.py or docs/hook_points.template.md")
    text += (HERE / "hook_points.template.md").read_text(encoding="utf-8")
    pairs = ["| one | the other | what tells them apart |", "|---|---|---|"]
    pairs += [f"| `{one}` | `{other}` | {what} |" for one, other, what in vocabulary.LOOKALIKES]
    return text.replace("{sites}", site_table(vocabulary.STANDARD)).replace("{lookalikes}", "\n".join(pairs))


def site_table(names: Iterator[str] | object) -> str:
    """Rows of the vocabulary."""
    rows = ["| site | dims | meaning | |", "|---|---|---|---|"]
    for name in names:  # type: ignore[attr-defined]
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
    """The page of errors."""
    text = NOTE.format(source="mi_core/errors.py or docs/errors.template.md")
    text += (HERE / "errors.template.md").read_text(encoding="utf-8")
    tree = inspect.getdoc(errors) or ""
    drawn = inspect.cleandoc(tree[tree.index("MiError") :])
    rows = ["| error | when |", "|---|---|"]
    for name in errors.__all__:
        kind = getattr(errors, name)
        rows.append(f"| `{name}` | {(inspect.getdoc(kind) or '').partition(chr(10))[0]} |")
    return text.replace("{tree}", drawn).replace("{errors}", "\n".join(rows))


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


def signature(function: object) -> str:
    """A signature without the quotes of its annotations."""
    return str(inspect.signature(function)).replace("'", "")  # type: ignore[arg-type]


def filled(text: str, name: str, content: str) -> str:
    """A page with new content between its two marks."""
    marks = re.compile(rf"(<!-- {name}: written by docs/generate.py -->\n).*?(<!-- end -->)", re.DOTALL)
    if not marks.search(text):
        raise SystemExit(f"no marks for {name!r}")
    return marks.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def generated() -> dict[Path, str]:
    """Every page that is written here, wholly or in part, as it should be; outputs aside."""
    guide, readme = HERE / "writing_a_plugin.md", ROOT / "README.md"
    return {
        HERE / "hook_points.md": hook_points(),
        HERE / "errors.md": error_tree(),
        guide: filled(guide.read_text(encoding="utf-8"), "hooks", hook_reference()),
        readme: filled(readme.read_text(encoding="utf-8"), "core points", site_table(CORE)),
    }


def main() -> None:
    """Write all of it; with names of pages, only their outputs."""
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
    chosen = [Path(name).resolve() for name in sys.argv[1:]]
    for path in chosen or [ROOT / "README.md", *sorted(HERE.glob("*.md"))]:
        if path.name.endswith(".template.md"):
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            text = pages.with_outputs(path)
        if text != path.read_text(encoding="utf-8"):
            print(f"outputs of {path.relative_to(ROOT)} changed")
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
