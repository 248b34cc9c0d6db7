"""What a run did: asked, selected, fired, with which kernels, on which tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mi_core.provenance import Provenance

__all__ = ["Receipt"]


@dataclass(frozen=True)
class Receipt:
    """The account of one run; a write that did not fire is an error, not a line here."""

    model: str
    provenance: Provenance
    spec: str
    """The spec as it would be written."""
    asked: Mapping[str, tuple[str, ...]]
    """Each name or pattern, and the points that it stood for."""
    fired: tuple[str, ...]
    """The points at which something was read or written, in the model's order."""
    layers: tuple[int, ...]
    """The layers that were run."""
    stopped_after: int | None
    """The layer after which the run stopped early, because nothing behind it was needed; None for a whole run."""
    kernels: Mapping[int, str]
    """For each layer that was run: ``"fused"``, or why it was not."""
    tokens: tuple[int, ...]
    """Real tokens of each row."""
    bos: tuple[str | None, ...]
    """The text of each row's BOS token, where it starts with one."""
    dtype: str
    device: str
    seconds: float
    chunks: int = 1
    """In how many chunks of rows it ran."""
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The receipt as JSON."""
        data = asdict(self)
        data["kernels"] = {str(layer): kernel for layer, kernel in self.kernels.items()}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Receipt:
        """The inverse of :meth:`to_json`, also after a round trip through JSON text."""
        known = dict(data)
        provenance = dict(known.pop("provenance"))
        for name in ("ignored_config", "ignored_tensors"):
            provenance[name] = tuple(provenance.get(name, ()))
        known["kernels"] = {int(layer): kernel for layer, kernel in known["kernels"].items()}
        known["asked"] = {name: tuple(points) for name, points in known["asked"].items()}
        for name in ("fired", "layers", "tokens", "bos", "notes"):
            known[name] = tuple(known[name])
        return cls(provenance=Provenance(**provenance), **known)

    def __str__(self) -> str:
        explicit = {layer: why for layer, why in self.kernels.items() if why != "fused"}
        lines = [
            f"model    {self.model} ({self.provenance.family}), {self.dtype} on {self.device}",
            *((f"read as  {self.provenance.read_as}",) if self.provenance.read_as else ()),
            *(f"weights  {done}" for done in (self.provenance.dequantised, self.provenance.quantised) if done),
            f"tokens   {', '.join(map(str, self.tokens))}" + (f", BOS {self.bos[0]!r}" if self.bos[0] else ""),
            f"layers   {span(self.layers)}"
            + ("" if self.stopped_after is None else f", stopped after layer {self.stopped_after}"),
            f"kernels  {explicit or 'fused everywhere'}",
            *(f"asked    {name} -> {len(points)} point(s)" for name, points in self.asked.items()),
            f"fired    {len(self.fired)} point(s)",
            *(f"note     {note}" for note in self.notes),
            f"seconds  {self.seconds:.3f}",
        ]
        return "\n".join(lines)


def span(layers: tuple[int, ...]) -> str:
    """Consecutive layers in short."""
    return f"{layers[0]} to {layers[-1]}" if layers else "none"
