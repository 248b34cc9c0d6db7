"""One run of a model: logits, what was captured, and the account of it. A read-only mapping from points to tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mi_core.captured import Before, Captured
from mi_core.errors import ChangedInPlace, EmptyInput, MissingActivation, SelectorError, UnknownPoint
from mi_core.fingerprint import fingerprint, version_of
from mi_core.layout import POSITION_DIMS, Layout
from mi_core.losses import losses_of
from mi_core.memory import ModelMemory, after_position
from mi_core.names import Point, Points
from mi_core.prompts import Prompts
from mi_core.receipt import Receipt
from mi_core.selection import Selection, own_dims, select, told_by
from mi_core.selectors import Selector, canonical
from mi_core.sources import Recorded
from mi_core.spec import HookSpec
from mi_core.trunk import Trunk

if TYPE_CHECKING:  # compared only when somebody asks
    from mi_core.comparing import Comparison
    from mi_core.metrics import Metric
    from mi_core.tokens import TopTokens

__all__ = ["Run"]


class Run(Mapping[str, Tensor]):
    """What a run returned. Captured tensors are read-only: ``.clone()`` before editing one."""

    def __init__(
        self,
        *,
        prompts: Prompts,
        layout: Layout,
        points: Points,
        logits: Tensor | None,
        last_only: bool,
        captured: Mapping[str, Captured],
        before: Mapping[str, Captured],
        receipt: Receipt,
        trunk: Trunk | None = None,
    ) -> None:
        self._prompts = prompts
        self._layout = layout
        self._points = points
        self._logits = logits
        self._last_only = last_only
        # in the model's order, in whatever order rows and chunks were run
        self._captured = {name: captured[name] for name in points.by_name if name in captured}
        self._before = {name: before[name] for name in points.by_name if name in before}
        self._trunk = trunk
        self._shown: dict[tuple[str, bool], tuple[Tensor, int]] = {}
        self.receipt = receipt

    # -- the mapping -----------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Tensor:
        """The activation at a point, in the layout of the input; zeros at the pads."""
        return self._out(self._find(name, self._captured), "")

    def __iter__(self) -> Iterator[str]:
        return iter(self._captured)

    def __len__(self) -> int:
        return len(self._captured)

    def __contains__(self, name: object) -> bool:
        """Whether the point was captured; False also for a name that the model does not have."""
        try:
            return isinstance(name, str) and self._canonical(name) in self._captured
        except UnknownPoint:
            return False

    def __repr__(self) -> str:
        rows, columns = self.tokens.shape[:2]
        return f"Run({self.receipt.model!r}, {rows} x {columns} tokens, {len(self)} activations)"

    # Mapping compares item by item, which tensors do not answer; a run equals itself
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def _canonical(self, name: str) -> str:
        try:
            return self._points.find(name).name
        except UnknownPoint:
            if self._points.sites:
                raise
            return name  # a run from a file knows the points that it holds only

    def _find(self, name: str, among: Mapping[str, Captured]) -> Captured:
        point = self._canonical(name)
        if point not in among:
            held = ", ".join(list(among)[:6]) + (", ..." if len(among) > 6 else "")
            raise MissingActivation(
                f"this run did not capture {point!r}; it holds {held or 'no activations'}. Run again with "
                f"mi.capture({point!r}).",
                point=point,
            )
        return among[point]

    def _out(self, captured: Captured, kind: str) -> Tensor:
        key = (captured.point.name, kind == "before")
        if key not in self._shown:
            shown = self._as_shown(captured.selection, captured.kept())
            self._shown[key] = shown, version_of(shown)
        return self._shown[key][0]

    def _as_shown(self, selection: Selection, value: Tensor) -> Tensor:
        """A selected value in the layout of the input; selected positions stay in the order of the selection."""
        batch = selection.choices.get("batch")
        layout = self._layout if batch is None else self._layout.picked(batch.index)
        free = ["" if dim in selection.choices else dim for dim in selection.dims]
        return selection.squeezed(layout.outward(value, free))

    @property
    def before(self) -> Mapping[str, Tensor]:
        """The values before interventions, of points captured with ``before=True``."""
        return Before(self)

    # -- tokens ----------------------------------------------------------------------------------

    @property
    def tokens(self) -> Shaped[Tensor, "batch column *numbers"]:
        """The ids (or the numbers that the model read), in the layout of the input; 0 at the pads."""
        return self._prompts.ids

    @property
    def text_tokens(self) -> list[list[str]]:
        """The text of each real token, row by row; a BOS token is shown."""
        return [list(row.tokens) for row in self._prompts.rows]

    def text_of(self, token: int) -> str:
        """The text of a token id; ``"<17>"`` without a tokenizer."""
        return self._prompts.rows[0].text_of(token)

    @property
    def mask(self) -> Bool[Tensor, "batch column"]:
        """Which columns are real tokens."""
        mask = self._layout.mask
        return torch.ones(self._prompts.ids.shape[:2], dtype=torch.bool) if mask is None else mask

    @property
    def positions(self) -> Int[Tensor, "batch column"]:
        """The position (count of real tokens before it) of each column; -1 at the pads."""
        return torch.where(self.mask, self.mask.cumsum(1) - 1, -1)

    # -- logits ----------------------------------------------------------------------------------

    @property
    def logits(self) -> Float[Tensor, "batch column d_vocab"]:
        """The logits in the layout of the input; ``[batch 1 d_vocab]`` of a run with ``logits="last"``."""
        if self._logits is None:
            raise MissingActivation('this run has no logits: it was asked for logits=None. Run with "all" or "last".')
        if self._last_only:
            return self._logits
        return self._layout.outward(self._logits, ("batch", "pos", "d_vocab"))

    @property
    def last_logits(self) -> Float[Tensor, "batch d_vocab"]:
        """The logits at each row's last real token: what metrics are called with."""
        if self._logits is None:
            return self.logits
        if self._last_only:
            return self._logits[:, 0]
        row = torch.arange(len(self._logits), device=self._logits.device)
        return self._logits[row, (self._layout.length - 1).to(row.device)]

    @property
    def token_losses(self) -> Float[Tensor, "batch column"]:
        """The loss (nats) of predicting each real token from those before it; 0 at a row's first token and pads."""
        self._need_all_logits("token_losses")
        assert self._logits is not None
        return self._layout.outward(losses_of(self._logits, self._layout), ("batch", "pos"))

    @property
    def loss(self) -> Float[Tensor, ""]:
        """The mean loss (nats) over all tokens that have one before them."""
        self._need_all_logits("loss")
        counted = int((self._layout.length - 1).sum())
        if counted == 0:
            raise EmptyInput("no row has a second token, so there is nothing to predict: a loss needs two tokens.")
        return self.token_losses.sum() / counted

    def _need_all_logits(self, what: str) -> None:
        if self._logits is None or self._last_only:
            raise MissingActivation(f'{what} needs the logits of every position: run with logits="all".')

    def top(self, k: int = 5, pos: int | None = -1) -> TopTokens:
        """The ``k`` most probable next tokens at a position of each row (None: at every position)."""
        from mi_core.tokens import top_tokens

        return top_tokens(self, k, pos)

    # -- reading parts ---------------------------------------------------------------------------

    def at(self, name: str, **selectors: Any) -> Tensor:
        """A part of a captured activation, with the selectors of interventions; an int drops its dim.

        Positions are counted on real tokens: ``run.at("blocks.3.hook_resid_post", pos=-1)`` is ``[batch d_model]``,
        each row's last real token.
        """
        captured = self._find(name, self._captured)
        asked = own_dims({dim: canonical(dim, selector) for dim, selector in selectors.items()}, captured.point)
        wanted = {**captured.selectors, **asked}
        return self._as_shown(self._select(wanted, captured.point), self._taken(captured, wanted))

    def values_at(
        self, point: Point, selectors: Mapping[str, Selector]
    ) -> tuple[Tensor, Mapping[str, Int[Tensor, "batch"]]]:
        """The same point, the same selection, of this run, left-aligned: see :class:`mi_core.sources.Source`."""
        captured, selection = self._find(point.name, self._captured), self._select(selectors, point)
        if captured.selectors:
            return self._taken(captured, selectors), selection.counts(self._layout)
        return selection.gather(self._unchanged(captured))[0], selection.counts(self._layout)

    def _select(self, selectors: Mapping[str, Selector], point: Point) -> Selection:
        return select(selectors, point, self._layout, self._prompts.rows, model=self.receipt.model)

    def _unchanged(self, captured: Captured) -> Tensor:
        """What was captured, with every dim of the site; refused if somebody changed it in place."""
        shown, version = self._shown.get((captured.point.name, False), (captured.value, captured.version))
        if version_of(captured.value) != captured.version or version_of(shown) != version:
            raise ChangedInPlace(
                f"the captured {captured.point.name!r} was changed in place, so this run no longer holds what it saw. "
                "Edit a .clone() of it.",
                point=captured.point.name,
            )
        return captured.kept()

    def _taken(self, captured: Captured, wanted: Mapping[str, Selector]) -> Tensor:
        kept, held = self._unchanged(captured), captured.selectors
        more = {dim: selector for dim, selector in wanted.items() if dim not in held}
        same = {dim: selector for dim, selector in wanted.items() if dim in held}
        # rows that were selected are no longer where their positions would be looked up, and what slots hold is gone
        lost = "batch" in held and any(dim in POSITION_DIMS for dim in more)
        lost = lost or any(told_by(dim, captured.point.site) is not None for dim in more)
        if lost or fingerprint(same) != fingerprint(dict(held)):
            raise MissingActivation(
                f"this run captured {captured.point.name!r} only at {dict(held)}; {dict(wanted)} is asked. Capture "
                "the same selection, or the whole activation.",
                point=captured.point.name,
            )
        return self._select(more, captured.point).gather(kept)[0] if more else kept

    def layers(self, site: str) -> tuple[int, ...]:
        """The layers in which this run captured a site: the labels of :meth:`stack`'s first dim."""
        return tuple(layer for layer, _ in self._of_site(site))

    def stack(self, site: str) -> Tensor:
        """A site of all captured layers as one tensor ``[layer ...]``."""
        found = self._of_site(site)
        if not found:
            raise MissingActivation(
                f"this run captured {site!r} in no layer. Run again with mi.capture('blocks.*.{site}').", site=site
            )
        values = [self[name] for _, name in found]
        if any(value.shape != values[0].shape for value in values):
            shapes = {name: list(value.shape) for (_, name), value in zip(found, values, strict=True)}
            raise SelectorError(f"{site!r} has different shapes in the captured layers: {shapes}.", site=site)
        return torch.stack(values)

    def _of_site(self, site: str) -> list[tuple[int, str]]:
        try:
            wanted = {point.name for point in self._points.match(f"blocks.*.{site}")}
        except UnknownPoint:
            if self._points.sites:
                raise
            return []
        found = [(c.point.layer, name) for name, c in self._captured.items() if name in wanted]
        return sorted((layer, name) for layer, name in found if layer is not None)

    def recorded(self, patterns: Sequence[str], selectors: Mapping[str, Selector]) -> Recorded:
        """The selected tensors of some points, with where they come from: what a saved spec keeps of a run."""
        own = {dim: selector for dim, selector in selectors.items() if dim != "layer"}
        points = [point for point in self._points.match(patterns) if point.name in self._captured]
        if not points:
            raise MissingActivation(f"this run captured none of {list(patterns)}.", points=tuple(patterns))
        taken = {point.name: self.values_at(point, own) for point in points}
        return Recorded(
            values={name: value for name, (value, _) in taken.items()},
            counts={name: counts for name, (_, counts) in taken.items()},
            selectors=own,
            provenance={
                **self.receipt.to_json()["provenance"],
                "model": self.receipt.model,
                "tokens": [list(row.ids) for row in self._prompts.rows],
            },
        )

    # -- gradients, memory, comparison -------------------------------------------------------------

    def grad(
        self, metric: Metric | Callable[[Float[Tensor, "batch d_vocab"]], Tensor], points: str | Sequence[str]
    ) -> dict[str, Tensor]:
        """The gradient of a metric with respect to captured activations of a run with ``grad=True``.

        The metric is called with the logits at each row's last real token and returns ``[batch]`` (or a scalar); one
        that names answers is given as ``metric.bound(model, batch)``.
        """
        from mi_core.gradients import gradients

        return gradients(self, metric, points)

    def vjp(self, cotangents: Mapping[str, Tensor], points: str | Sequence[str]) -> dict[str, Tensor]:
        """Cotangents at some points (or ``"hook_logits"``) pulled back to others."""
        from mi_core.gradients import pulled_back

        return pulled_back(self, cotangents, points)

    @property
    def trunk(self) -> Trunk:
        """What other runs go on from; the run needs ``resumable=True``."""
        if self._trunk is None:
            raise MissingActivation("this run kept no streams to go on from: run with resumable=True.")
        return self._trunk

    def memory(self, pos: int = -1) -> ModelMemory:
        """What the model remembers after the real token ``pos`` of each row; the run needs ``resumable=True``."""
        if self._trunk is None:
            raise MissingActivation("this run kept no memory: run with resumable=True.")
        return self._trunk.memory.cut(after_position(self._layout.length, self._layout.start, pos))

    def resume(self, spec: HookSpec) -> Run:
        """What the full run under this run's edits and ``spec`` returns, computed from where it first differs.

        The run needs ``resumable=True``. Layers before the first that ``spec`` touches, and columns before the first
        that any edit reaches from there on, are this run's; captures of ``spec`` alone are kept.

        Raises:
            MissingActivation: the run kept nothing to go on from.
            ChangedInPlace: a stream of this run was edited.
        """
        from mi_core.resuming import resumed

        return resumed(self, spec)

    def compare(self, base: Run) -> Comparison:
        """How this run's predictions differ from another's: KL divergence (nats) and changed tokens by position."""
        from mi_core.comparing import compared

        return compared(self, base)

    # -- moving and saving -------------------------------------------------------------------------

    def to(self, target: torch.device | torch.dtype | str) -> Run:
        """The same run on another device, or with its floating-point tensors in another dtype."""

        def moved(tensor: Tensor) -> Tensor:
            keep = isinstance(target, torch.dtype) and not tensor.is_floating_point()
            return tensor if keep else tensor.to(target)

        def each(kept: Mapping[str, Captured]) -> dict[str, Captured]:
            values = {name: moved(captured.value) for name, captured in kept.items()}
            return {
                name: replace(captured, value=values[name], version=version_of(values[name]), path=None)
                for name, captured in kept.items()
            }

        return Run(
            prompts=self._prompts,
            layout=self._layout,
            points=self._points,
            logits=None if self._logits is None else moved(self._logits),
            last_only=self._last_only,
            captured=each(self._captured),
            before=each(self._before),
            receipt=self.receipt,
            trunk=None if self._trunk is None or isinstance(target, torch.dtype) else self._trunk.to(target),
        )

    def save(self, path: str | Path) -> None:
        """Write tensors (safetensors) and everything else (JSON in its header) as one file."""
        from mi_core.run_files import save_run

        save_run(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Read what :meth:`save` wrote; no model is needed."""
        from mi_core.run_files import load_run

        return load_run(Path(path))
