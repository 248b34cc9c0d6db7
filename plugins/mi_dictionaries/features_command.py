"""``mi dictionary features``: an index page, and one for each feature, from a shell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mi_core.hookspecs import hookimpl

__all__ = ["features", "mi_command", "write_pages"]


def features(
    ref: Annotated[str, typer.Argument(help="The dictionary: a name, a folder, a Hub reference.", show_default=False)],
    model: Annotated[str, typer.Argument(help="The model that it is of.", show_default=False)],
    data: Annotated[
        Path, typer.Argument(help="A folder that mi harvest wrote, or a text of one document a line.", exists=True)
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder to write pages into.")] = None,
    feature: Annotated[
        list[int] | None, typer.Option("--feature", "-f", help="A feature; may be repeated. Else the most active ones.")
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Of a set of dictionaries, the layer.")] = None,
    examples: Annotated[int, typer.Option(help="Of each feature.", min=1)] = 10,
) -> None:
    """What are a dictionary's features about?

    Prints a line for each; with --out writes an index page and a page for each feature. Ctrl-C keeps the pages that are
    written.
    """
    import mi_core as mi
    from mi_core.cli.console import output
    from mi_dictionaries.feature_report import feature_report
    from mi_dictionaries.loading import load
    from mi_dictionaries.sets import DictionarySet

    found = load(ref, layer=layer)
    if isinstance(found, DictionarySet):
        raise typer.BadParameter(f"{ref} is a set of layers {', '.join(map(str, found))}: give --layer")
    loaded = mi.load(model)
    texts = None if data.is_dir() else [line for line in data.read_text(encoding="utf-8").splitlines() if line.strip()]
    given = mi.Harvest(data, tokenizer=loaded.tokenizer) if texts is None else texts
    with encoding_bar() as progress:
        report = feature_report(loaded, found, given, features=feature, examples=examples, progress=progress)
    output().print(report)
    if out is not None:
        count = write_pages(report, out)
        output().print(f"wrote {count} pages to {out}, begin with {out / 'index.html'}", markup=False, soft_wrap=True)


def write_pages(report: object, out: Path) -> int:
    """A page for each feature, each whole as soon as it is there, and then the index of them; how many."""
    from mi_dictionaries.feature_report import FeatureReport

    assert isinstance(report, FeatureReport)
    out.mkdir(parents=True, exist_ok=True)
    for number in report.features:
        whole(out / f"{number}.html", report.page(number))
    whole(out / "index.html", report.to_html())
    return 1 + len(report.features)


def whole(path: Path, text: str) -> None:
    """A file that is there with all of its text, or not at all."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


@contextmanager
def encoding_bar() -> Iterator[Callable[[int, int], object]]:
    """A progress bar over rows, on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("encoding")
        yield lambda done, every: bar.update(task, completed=done, total=every)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi dictionary features``."""
    return features
