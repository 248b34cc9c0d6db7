"""Plans in words, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from mi_core.abreast import comes_and_goes
from mi_core.binding import Binding, BoundCapture, BoundEdit
from mi_core.device_maps import OUTSIDE, PlaceUse
from mi_core.layer_spans import layer_words, spans
from mi_core.placed import placed_in
from mi_core.spec import narrowing

if TYPE_CHECKING:
    from mi_core.metering import Cost
    from mi_core.model import Model
    from mi_core.plans import Plan
    from mi_core.rehearsing import Kept, Rehearsed

__all__ = ["Topics", "amount", "as_text", "run_data", "run_topics"]

Topics: TypeAlias = list[tuple[str, list[str]]]
"""What there is to say: a topic, and its lines."""

CUT = "fused kernel, with the cut edges in its mask"
RAN_ONCE = "found by running it once: this model decides by the numbers that it computes"


def as_text(topics: Topics) -> str:
    """Topics in a column, their lines beside them."""
    wide = max(len(topic) for topic, _ in topics)
    return "\n".join(
        f"{topic if number == 0 else '':{wide}}  {line}" for topic, lines in topics for number, line in enumerate(lines)
    )


def run_topics(plan: Plan) -> Topics:
    """What a run will do."""
    found = plan.rehearsal
    topics = [
        ("run", [opening(plan)]),
        ("weights", weight_lines(plan.model)),
        ("layers", [layers_line(plan)]),
        ("attention", kernel_lines(plan.binding, plan.layers, found.fused)),
        ("writes", write_lines(plan.binding)),
        ("captures", capture_lines(plan.binding, found)),
        ("logits", [logits_line(plan)]),
        ("keeps", ["streams and memory of every layer, to go on from"] if plan.resumable else []),
        ("calls", chunk_lines(plan)),
        ("cost", [*cost_lines(found.cost), *([RAN_ONCE] if found.missed else [])]),
    ]
    return [(topic, lines) for topic, lines in topics if lines]


def opening(plan: Plan) -> str:
    """The model and its input."""
    model, length = plan.model, plan.layout.length.tolist()
    tokens = f"{length[0]} tokens" if len(set(length)) == 1 else f"{min(length)} to {max(length)} tokens"
    rows = "1 row" if len(length) == 1 else f"{len(length)} rows"
    going_on = "" if plan.memory is None else f", going on behind {plan.layout.start.tolist()} remembered"
    dtype = str(model.dtype).removeprefix("torch.")
    return (
        f"{model.provenance.ref} ({model.provenance.family}), {dtype} on {model.device}; {rows} of {tokens}{going_on}"
    )


def weight_lines(model: Model) -> list[str]:
    """Where the weights are, if not all on one device."""
    placed = placed_in(model.backend)
    return [] if placed is None else [use_words(use, placed.device_map.main) for use in placed.uses]


def use_words(use: PlaceUse, main: str) -> str:
    """What one place holds.

    >>> use_words(PlaceUse("disk", ("blocks.2", "blocks.3"), 1_200_000, True), "cpu")
    'layers 2 to 3: 1.2 MB on disk, brought to cpu for each call'
    """
    layers = [int(name.partition(".")[2]) for name in use.units if name != OUTSIDE]
    what = [layer_words(layers)] if layers else []
    what += ["embedding and unembedding"] if OUTSIDE in use.units else []
    coming = f", brought to {main} for each call" if use.offloaded else ""
    coming += ", the next one while a layer computes" if use.ahead else ""
    return f"{' and '.join(what)}: {amount(use.bytes)} on {use.place}{coming}"


def layers_line(plan: Plan) -> str:
    """Which layers are run, and why not all."""
    total = plan.model.shape.n_layers
    if plan.stops_after is None:
        return f"all {total}" if plan.logits is not None else f"all {total}; the unembedding is left out"
    if not plan.layers:
        return f"none of {total}: the embedding is all that is asked for"
    return f"{layer_words(plan.layers)} of {total}; stops there, because nothing behind is asked for"


def kernel_lines(binding: Binding, layers: Iterable[int], fused: frozenset[int]) -> list[str]:
    """How each layer's attention, or what stands for it, is computed, and why; ``fused`` is where that was seen."""
    sites = [site for site in binding.of_model.sites if site.name == "attn.hook_attn_scores"]
    scored = {layer for site in sites for layer in (site.layers or ())}
    words: dict[str, list[int]] = {}
    for layer in layers:
        words.setdefault(kernel_words(binding, layer, layer in scored, fused), []).append(layer)
    return [f"{layer_words(these)}: {said}" for said, these in words.items()]


def kernel_words(binding: Binding, layer: int, scored: bool, fused: frozenset[int]) -> str:
    """One layer's kernel."""
    looked_at = binding.looked_at.get(layer)
    if looked_at:
        return f"explicit arithmetic, because of {', '.join(looked_at)}"
    if not scored:
        return "no attention scores"
    if layer not in fused:
        return "explicit scores, though nobody looks: no fused kernel computes this attention"
    return CUT if binding.kernel(layer) == "fused, with cut edges" else "fused kernel"


def write_lines(binding: Binding) -> list[str]:
    """What is written where."""
    lines = []
    at: dict[str, list[str]] = {}
    for steps in (binding.steps, binding.cuts):
        for name, found in steps.items():
            for step in found:
                said = repr(step.intervention) if isinstance(step, BoundEdit) else f"the insert {step.name!r}"
                at.setdefault(said, []).append(name)
    for said, names in at.items():
        lines += [f"{where}: {said}" for where in grouped(names)]
    if binding.holds_functions:
        lines.append("a function (Apply) runs as it is, in Python; it cannot be saved")
    return lines


def capture_lines(binding: Binding, found: Rehearsed) -> list[str]:
    """What is kept, sliced to what, as what and where."""
    lines = []
    for kept, sizes, kind in ((binding.after, found.after, ""), (binding.before, found.before, ", before writes")):
        alike: dict[str, list[str]] = {}
        for name, bound in kept.items():
            alike.setdefault(kept_words(bound, sizes[name]) + kind, []).append(name)
        for said, names in alike.items():
            lines += [f"{where}: {said}" for where in grouped(names)]
    total = sum(kept.bytes for kept in (*found.after.values(), *found.before.values()))
    return [*lines, f"{amount(total)} together"] if len(found.after) + len(found.before) > 1 else lines


def kept_words(bound: BoundCapture, kept: Kept) -> str:
    """One capture."""
    part = f"only {narrowing(bound.selectors)[4:-1]}" if bound.selectors else "whole"
    return f"{part}, {kept.dtype} {list(kept.shape)} on {kept.device}, {amount(kept.bytes)}"


def logits_line(plan: Plan) -> str:
    """Which logits come out."""
    if plan.logits is None:
        return "none"
    if plan.logits == "all":
        return "of every position"
    if plan.unembedded == "all":
        return "of each row's last token; computed at every position, because of what is asked behind the layers"
    return "of each row's last token only"


def chunk_lines(plan: Plan) -> list[str]:
    """How the rows are run apart."""
    if plan.chunks is None:
        return []
    sizes = [len(chunk) for chunk in plan.chunks]
    most = max(sizes)
    lines = [f"{len(sizes)}, of at most {most} row{'s' if most > 1 else ''} each, for batch_tokens={plan.batch_tokens}"]
    if comes_and_goes(plan.model.backend):
        lines.append("layer by layer: all of them go through a layer together, so that its weights come once")
    return lines


def cost_lines(cost: Cost) -> list[str]:
    """Operations and memory."""
    held = ", ".join(f"{amount(size)} on {device}" for device, size in cost.peak_bytes.items())
    return [
        f"{amount(cost.operations, 'floating-point operations')}",
        f"{held} at most at one time, beside weights and inputs",
    ]


def run_data(plan: Plan) -> dict[str, Any]:
    """A run's plan as JSON."""
    found = plan.rehearsal
    return {
        "model": plan.model.provenance.ref,
        "tokens": plan.layout.length.tolist(),
        "weights": weight_lines(plan.model),
        "layers": list(plan.layers),
        "stops_after": plan.stops_after,
        "kernels": {str(layer): kernel for layer, kernel in plan.kernels.items()},
        "captures": captures_data(plan.binding.after, found.after) + captures_data(plan.binding.before, found.before),
        "logits": plan.logits,
        "chunks": None if plan.chunks is None else [chunk.tolist() for chunk in plan.chunks],
        **cost_data(found.cost),
        "ran_once": found.missed,
        "explained": as_text(run_topics(plan)),
    }


def captures_data(bound: Mapping[str, BoundCapture], kept: Mapping[str, Kept]) -> list[dict[str, Any]]:
    """Captures as JSON."""
    return [{"point": name, "at": narrowing(capture.selectors), **vars(kept[name])} for name, capture in bound.items()]


def cost_data(cost: Cost | None) -> dict[str, Any]:
    """Costs as JSON."""
    if cost is None:
        return {"operations": None, "peak_bytes": None}
    return {"operations": cost.operations, "peak_bytes": dict(cost.peak_bytes)}


def grouped(names: Sequence[str]) -> list[str]:
    """Names of points, one for all layers of a site.

    >>> grouped(["hook_embed", "blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"])
    ['hook_embed', 'blocks.{0..1}.hook_resid_pre']
    """
    sites: dict[str, list[int]] = {}
    for name in names:
        if name.startswith("blocks."):
            _, layer, site = name.split(".", 2)
            sites.setdefault(site, []).append(int(layer))
        else:
            sites[name] = []
    return [f"blocks.{spans(layers)}.{site}" if layers else site for site, layers in sites.items()]


def amount(number: float, unit: str = "") -> str:
    """A number as people say it: bytes, or of a unit.

    >>> amount(1_234_567), amount(8_672_256, "operations")
    ('1.23 MB', '8.67 million operations')
    """
    names = ("", " thousand", " million", " billion", " trillion") if unit else (" bytes", " kB", " MB", " GB", " TB")
    place = 0
    while number >= 1000 and place < len(names) - 1:
        number, place = number / 1000, place + 1
    shown = f"{number:.0f}" if place == 0 else f"{number:.3g}"
    return f"{shown}{names[place]}" + (f" {unit}" if unit else "")
