"""Runs on disk: one safetensors file, the structure as JSON in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mi_core.errors import LoadError
from mi_core.fingerprint import version_of
from mi_core.layout import Layout
from mi_core.names import Point, Points
from mi_core.prompts import Prompts
from mi_core.protocols import ModelShape, Site
from mi_core.receipt import Receipt
from mi_core.rows import RowText
from mi_core.selection import select
from mi_core.selectors import selector_from_json, selector_to_json

if TYPE_CHECKING:
    from mi_core.captured import Captured
    from mi_core.run import Run

__all__ = ["load_run", "save_run"]

FORMAT = "mi-core run 1"


def save_run(run: Run, path: Path) -> None:
    """Write a run."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {"ids": run._prompts.ids}
    layout = run._layout
    tensors |= {"inside.ids": layout.ids, "inside.length": layout.length, "inside.start": layout.start}
    tensors["inside.positions"] = layout.positions
    if layout.mask is not None:
        tensors["inside.mask"] = layout.mask
    if layout.prompt is not None:
        tensors["inside.prompt"] = layout.prompt
    if run._logits is not None:
        tensors["logits"] = run._logits
    for kind, held in (("after", run._captured), ("before", run._before)):
        tensors |= {f"{kind}.{name}": captured.value for name, captured in held.items()}
    shape = run._points.shape
    data = {
        "format": FORMAT,
        "model": run._points.model,
        "shape": {"n_layers": shape.n_layers, "d_model": shape.d_model, "d_vocab": shape.d_vocab},
        "last_only": run._last_only,
        "receipt": run.receipt.to_json(),
        "rows": [row.to_json() for row in run._prompts.rows],
        "after": {name: described(captured) for name, captured in run._captured.items()},
        "before": {name: described(captured) for name, captured in run._before.items()},
    }
    save_file(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
        path,
        metadata={"mi_core": json.dumps(data)},
    )


def described(captured: Captured) -> dict[str, Any]:
    """A capture without its tensor."""
    site = captured.point.site
    return {
        "layer": captured.point.layer,
        "site": {"name": site.name, "dims": list(site.dims), "sizes": dict(site.sizes), "layers": site.layers},
        "selectors": {dim: selector_to_json(selector) for dim, selector in captured.selectors.items()},
    }


def load_run(path: Path) -> Run:
    """Read what :func:`save_run` wrote; the points that are known are those that were captured."""
    from safetensors import SafetensorError, safe_open

    from mi_core.run import Run

    try:
        with safe_open(path, framework="pt") as file:
            data = json.loads((file.metadata() or {}).get("mi_core", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise LoadError(f"{str(path)!r} is no saved run: {error}", path=path) from None
    if data.get("format") != FORMAT:
        raise LoadError(f"{str(path)!r} is no saved run: its format is not {FORMAT!r}.", path=path)
    rows = tuple(RowText.from_json(row) for row in data["rows"])
    mask = tensors.get("inside.mask")
    inside = {name: tensors[f"inside.{name}"] for name in ("ids", "length", "positions", "start")}
    layout = Layout(**inside, mask=mask, prompt=tensors.get("inside.prompt"))
    points = Points((), ModelShape(**data["shape"], n_ctx=None), data["model"])
    kept: dict[str, dict[str, Captured]] = {"after": {}, "before": {}}
    for kind, held in kept.items():
        for name, described_ in data[kind].items():
            held[name] = restored(name, described_, tensors[f"{kind}.{name}"], layout, rows)
            points.by_name[name] = held[name].point
    return Run(
        prompts=Prompts(tensors["ids"], mask, None, rows),
        layout=layout,
        points=points,
        logits=tensors.get("logits"),
        last_only=data["last_only"],
        captured=kept["after"],
        before=kept["before"],
        receipt=Receipt.from_json(data["receipt"]),
    )


def restored(name: str, data: dict[str, Any], value: Tensor, layout: Layout, rows: Any) -> Captured:
    """A capture with its tensor."""
    from mi_core.captured import Captured

    described_ = dict(data["site"])
    layers = described_.pop("layers")
    dims = tuple(described_.pop("dims"))
    site = Site(**described_, dims=dims, layers=None if layers is None else tuple(layers))
    point = Point(name, site, data["layer"])
    selectors = {dim: selector_from_json(item) for dim, item in data["selectors"].items()}
    return Captured(point, selectors, select(selectors, point, layout, rows), value, version_of(value))
