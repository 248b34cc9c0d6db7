"""What a harvest says of itself, in lines: what it is of, what it has, and what is hurt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mi_core.explaining import Topics, amount, as_text

if TYPE_CHECKING:
    from mi_core.harvests.reading import Harvest

__all__ = ["as_text", "brief_topics", "full_topics"]


def brief_topics(harvest: Harvest) -> Topics:
    """What there is."""
    index = harvest.index
    documents = f" of {index['tokens']:,} tokens in {index['end']['documents']:,} documents" if harvest.complete else ""
    size = sum(path.stat().st_size for path in harvest.files if path.exists())
    return [
        ("harvest", [f"{harvest.folder}{'' if harvest.complete else ', unfinished'}"]),
        ("rows", [f"{harvest.rows:,}{documents}"]),
        ("shards", [f"{len(harvest.files)}, {amount(size)}"]),
        ("points", [point_line(harvest, name) for name in harvest.points]),
    ]


def point_line(harvest: Harvest, name: str) -> str:
    """One point."""
    shape = " ".join(("row", *(f"{dim}={count}" for dim, count in harvest.index["dims"][name].items())))
    return f"{name}  [{shape}]  {str(harvest[name].dtype).removeprefix('torch.')}"


def full_topics(harvest: Harvest, *, thorough: bool = False) -> Topics:
    """The same, and what it was made from and how."""
    problems = [str(problem) for problem in harvest.problems(thorough=thorough).values()]
    sound = ["every byte of every shard is as it was written"] if thorough and not problems else []
    said = [
        *brief_topics(harvest),
        ("spec", [harvest.index["asked"]]),
        ("model", model_lines(harvest.index)),
        ("data", data_lines(harvest.index)),
        ("windows", [window_line(harvest.index["settings"])]),
        ("hurt", problems),
        ("checked", sound),
    ]
    return [(topic, lines) for topic, lines in said if lines]


def model_lines(index: Mapping[str, Any]) -> list[str]:
    """Which model, with which weights, in which versions."""
    of, settings = index["provenance"], index["settings"]
    revision = f", revision {of['revision']}" if of["revision"] else ""
    seed = f", seed {of['seed']}" if of["seed"] is not None else ""
    versions = ", ".join(f"{name} {version}" for name, version in of["versions"].items())
    return [
        f"{of['ref']} ({of['family']}{revision}{seed}), weights {settings['weights'][:16]}",
        f"{settings['computed']} on {settings['device']}; {versions}",
    ]


def data_lines(index: Mapping[str, Any]) -> list[str]:
    """Which documents."""
    source, end = index.get("data", {}), index.get("end")
    field = f", field {source['field']!r}" if source.get("field") else ""
    lines = [f"{source['name']}{field}"] if source else []
    return lines + ([f"{end['documents']:,} documents, SHA-256 {end['digest'][:16]}"] if end else [])


def window_line(settings: Mapping[str, Any]) -> str:
    """How documents were read."""
    long = "longer documents split" if settings["split"] else "no longer document"
    overlap = f", overlapping by {settings['overlap']}" if settings["overlap"] else ""
    bos = "; rows of BOS left out" if settings["skip_bos"] else ""
    return f"{settings['context']} tokens at most, {long}{overlap}{bos}; {settings['batch_tokens']} tokens a run"
