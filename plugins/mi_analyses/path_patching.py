"""Path patching: by which paths does what one node writes reach the answer?

Reach for it after activation patching has found which heads matter, to see who feeds them: a sender's output of the
other prompt is handed to some receivers alone (a head's query, key or value, an MLP, the logits), all else as it was.
Without receivers it is handed to everybody: the total effect; less the direct effect on the logits it is the indirect
one.

Source: Wang et al. 2022, "Interpretability in the Wild" (arXiv:2211.00593), appendix B; Goldowsky-Dill et al. 2023,
"Localizing Model Behavior with Path Patching" (arXiv:2304.05969).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

import mi_core as mi
from mi_analyses.activation_patching import effects_of, interval_of, plain
from mi_analyses.first_order import Comparison
from mi_analyses.graph_nodes import Graph, Node
from mi_analyses.path_changes import Changes, PathRuns
from mi_analyses.prompt_pairs import check_lengths, two_sides
from mi_core.analyses import Analysis, require
from mi_core.errors import SelectorError
from mi_core.hookspecs import hookimpl
from mi_core.interventions import Add, Replace
from mi_core.labelled import Labelled
from mi_core.protocols import Site
from mi_core.results import Result, ResultProvenance

__all__ = ["PathPatching", "path_patching"]

NEEDS = ("hook_resid_pre", "hook_resid_post")
Mlps = Literal["frozen", "recomputed"]


@dataclass(frozen=True, kw_only=True, eq=True)
class PathPatching(Result):
    """What each path does to the metric. Axes: ``sender``, ``receiver`` and ``pos`` if they were asked for, ``batch``.

    ``effect`` is 0 where a path changes nothing, and 1 where it does all that the whole other prompt does.
    """

    effect: Labelled
    """(patched - unpatched) / (other - unpatched), the mean over pairs."""
    interval: Labelled
    """Of the mean effect, by bootstrap over pairs: ``bound`` ("low", "high") and the axes. NaN for one pair."""
    effects: Labelled
    """The effect of each pair."""
    metric: Labelled
    """The metric of each patched run."""
    clean: Labelled
    """The metric of each clean run."""
    corrupt: Labelled
    """The metric of each corrupt run."""
    receivers: tuple[str, ...]
    """Who was handed the sender's other output; empty: everybody."""
    mlps: Mlps
    """Whether MLPs between sender and receivers were held (so that each path is an edge) or recomputed."""
    noising: bool
    """True: corrupt outputs went into the clean run; False: clean ones into the corrupt run."""
    level: float
    """Of the interval."""
    clean_tokens: tuple[tuple[str, ...], ...]
    corrupt_tokens: tuple[tuple[str, ...], ...]

    title: ClassVar[str] = "Path patching"
    template: ClassVar[str] = "mi_analyses/heat_maps.html"
    views: ClassVar[str] = "mi_analyses.path_patching_view"


def path_patching(
    model: mi.Model,
    clean: Any,
    corrupt: Any,
    metric: mi.Metric | Callable[..., Any],
    receivers: str | Sequence[str] | None = "logits",
    *,
    senders: Sequence[str] | None = None,
    each_receiver: bool = False,
    pos: Any = None,
    mlps: Mlps = "frozen",
    noising: bool = False,
    heads: bool = True,
    level: float = 0.95,
    seed: int = 0,
    attention_mask: Any = None,
    batch: int | str = "auto",
    progress: bool | None = None,
) -> PathPatching:
    """By which paths does what one node writes reach the answer?

    Each cell is one run of the corrupt prompt (``noising``: the clean one) in which the receivers read what they read
    there plus what the sender's output of the other prompt changes. What one receiver passes on to another does not
    count, except at the logits.

    Args:
        model: any model whose stream is the sum of what its layers write.
        clean: a prompt, or several.
        corrupt: as many, cut into as many tokens.
        metric: what is measured, such as ``mi.logit_diff(" Mary", " John")``; answers for all pairs, or for each.
        receivers: ``"logits"``, ``"mlp 5"``, ``"L5H2.q"`` (grouped: ``"L5KV1.k"``), ``"L5H2"`` for all three, or
            several, which receive together; None for everybody: the total effect.
        senders: ``"L3H2"``, ``"mlp 3"``, ``"embed"``, ``"resid 3"``, ...; by default every node that writes before.
        each_receiver: one receiver at a time, along an axis of their own.
        pos: where the sender's output is the other prompt's: any selector of positions, of the prompt that is patched;
            a mapping from labels to selectors for an axis; None for everywhere.
        mlps: ``"frozen"``: the sender's direct edges alone (each MLP is a node like a head); ``"recomputed"``: paths
            through MLPs too, as in Wang et al., with all other attention held.
        noising: hand corrupt outputs to the clean run.
        heads: False takes each layer's attention as one sender.
        level: of the interval over pairs.
        seed: of the bootstrap.
        attention_mask: as in `Model.run`, for both sides.
        batch: as in `Model.sweep`.
        progress: as in `Model.sweep`.

    Raises:
        UnsupportedAnalysis: the model lacks a site, or its stream is no plain sum; the message says why.
        SelectorError: no such node; a sender that no receiver reads; the prompts of a pair have different lengths.
        ValueMismatch: the metric does not tell clean from corrupt in some pair.
    """
    require(model, NEEDS, "path_patching")
    if mlps not in ("frozen", "recomputed"):
        raise SelectorError(f'mlps={mlps!r}: MLPs are "frozen" or "recomputed".', mlps=mlps)
    if isinstance(corrupt, mi.HookSpec):
        raise SelectorError("path_patching compares two prompts: give a corrupt prompt, not a spec.", corrupt=corrupt)
    graph = Graph.of(model, heads=heads)
    reading = readers_of(graph, receivers)
    writing = senders_of(graph, senders, reading)
    base, source = two_sides(clean, corrupt, noising)
    mask = {"attention_mask": attention_mask}
    streams = sorted({graph.stream(reader) for reader in reading or ()})
    made = {graph.made_of(sender).point for sender in writing}
    held = held_points(model, streams) if mlps == "recomputed" else set()
    compared = Comparison.of(model, (base, source), metric, **mask)
    given = compared.run(source, sorted(made))
    under = model.run(base.inputs, mi.capture(sorted({*made, *streams, *held})), logits=None, **mask)
    tokens = {base.name: under.text_tokens, source.name: given.text_tokens}
    check_lengths(tokens["clean"], tokens["corrupt"], "Use prompts cut into as many tokens.")
    runs = PathRuns(model, graph, base.inputs, under, given, streams, mask)
    grid = path_grid(runs, writing, reading, each_receiver, pos, mlps)
    swept = model.sweep(base.inputs, grid, metric, batch=batch, progress=progress, **mask)  # type: ignore[arg-type]
    assert swept.baseline is not None
    baselines = {base.name: swept.baseline, source.name: compared.bound(len(given.tokens)).measured(given)}
    effects = effects_of(swept, baselines[base.name], baselines[source.name])
    return PathPatching(
        provenance=ResultProvenance.of(model, under, base.spec, base.inputs),
        effect=effects.mean("batch"),
        interval=interval_of(effects, level, seed),
        effects=effects,
        metric=plain(swept),
        **{name: plain(baselines[name]) for name in ("clean", "corrupt")},
        receivers=tuple(map(str, reading or ())),
        mlps=mlps,
        noising=noising,
        level=level,
        clean_tokens=tuple(map(tuple, tokens["clean"])),
        corrupt_tokens=tuple(map(tuple, tokens["corrupt"])),
    )


def readers_of(graph: Graph, receivers: str | Sequence[str] | None) -> tuple[Node, ...] | None:
    """The receivers of some names, in the model's order; None for everybody."""
    if receivers is None:
        return None
    names = (receivers,) if isinstance(receivers, str) else tuple(receivers)
    found = {node for name in names for node in graph.readers(name)}
    if not found:
        raise SelectorError("no receivers: name some, or None for everybody.")
    return tuple(node for node in graph.receivers if node in found)


def senders_of(graph: Graph, senders: Sequence[str] | None, readers: Sequence[Node] | None) -> tuple[Node, ...]:
    """The senders of some names; by default all that some receiver reads.

    Raises:
        SelectorError: there is no such sender, or no receiver comes behind it.
    """

    def read(sender: Node) -> bool:
        return readers is None or any(graph.feeds(sender, reader) for reader in readers)

    if senders is None:
        return tuple(filter(read, graph.senders))
    found = tuple(graph.sender(name) for name in ((senders,) if isinstance(senders, str) else senders))
    for sender in found:
        if not read(sender):
            raise SelectorError(
                f"{str(sender)!r} writes behind every receiver ({', '.join(map(str, readers or ()))}): no path.",
                sender=str(sender),
            )
    return found


def held_points(model: mi.Model, streams: Sequence[str]) -> set[str]:
    """Attention that is held so that MLPs alone are recomputed, as far as some stream needs it."""
    layers = [model.points.find(stream).layer or 0 for stream in streams]
    found = model.hook_points("blocks.*.hook_attn_out") if streams else []
    return {point.name for point in found if (point.layer or 0) <= max(layers)}


def path_grid(
    runs: PathRuns, senders: Sequence[Node], readers: Sequence[Node] | None, apart: bool, pos: Any, mlps: Mlps
) -> mi.Grid:
    """One spec for each sender, and for each receiver and each position if those are axes."""
    places = dict(pos) if isinstance(pos, Mapping) else {"all": pos}
    changes: dict[Any, Changes] = {}
    if readers is not None and mlps == "frozen":
        changes = dict.fromkeys(places, runs.direct(senders))
    elif readers is not None:
        changes = {label: runs.recomputed(senders, where) for label, where in places.items()}

    def build(sender: Node, receiver: Node | None = None, pos: Any = "all") -> mi.HookSpec:
        where = {} if places[pos] is None else {"pos": places[pos]}
        if readers is None:
            place = runs.graph.made_of(sender)
            return place.write(Replace(runs.source[place.point]).at(**where))
        together = readers if receiver is None else (receiver,)
        return handed(runs, changes[pos], sender, together, where)

    axes: dict[str, Any] = {"sender": {str(sender): sender for sender in senders}}
    if apart and readers is not None:
        axes["receiver"] = {str(reader): reader for reader in readers}
    if isinstance(pos, Mapping):
        axes["pos"] = {label: label for label in places}
    return mi.grid(build, **axes)


def handed(
    runs: PathRuns, changes: Changes, sender: Node, readers: Sequence[Node], where: Mapping[str, Any]
) -> mi.HookSpec:
    """The receivers read what they read in the base run, and what the sender's other output changes."""
    graph, spec = runs.graph, mi.HookSpec()
    for reader in readers:
        stream = graph.stream(reader)
        # what other receivers pass on to this one does not count; at the logits all effects meet
        held = reader.kind != "logits" and any(graph.behind(other, reader) for other in readers)
        for place in graph.inputs(reader):
            site = runs.model.points.find(place.point).site
            if held:
                spec = spec + place.write(Replace(as_at(site, runs.base[stream])))
            if graph.feeds(sender, reader):
                spec = spec + place.write(Add(as_at(site, changes[sender, stream])).at(**where))
    return spec


def as_at(site: Site, stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos *heads d_model"]:
    """A stream as a site has it: once for each head where it has heads."""
    heads = [site.sizes[dim] for dim in site.dims[2:-1]]
    return stream.unsqueeze(2).expand(-1, -1, *heads, -1) if heads else stream


@hookimpl
def mi_analysis() -> Analysis:
    """What the core needs to know about path patching."""
    return Analysis("By which paths does what one node writes reach the answer?", NEEDS, path_patching)


@hookimpl
def mi_command() -> Callable[..., None]:
    """``mi path``."""
    from mi_analyses.path_patching_command import path

    return path
