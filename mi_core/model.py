"""A model to look into: run it, read it, write to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_core.errors import InputError, SpecError
from mi_core.grids import Grid
from mi_core.labelled import Label
from mi_core.memory import ModelMemory, remembered
from mi_core.metrics import Metric
from mi_core.names import Point, Points
from mi_core.number_inputs import read_inputs
from mi_core.placed import PlacedBackend, placed_in
from mi_core.plans import Logits, Plan, planned
from mi_core.prompts import Prompts
from mi_core.protocols import Backend, ModelShape
from mi_core.provenance import Provenance
from mi_core.run import Run
from mi_core.spec import HookSpec
from mi_core.taps import IDLE
from mi_core.unembedding import unembedded
from mi_core.weights import Weights

if TYPE_CHECKING:  # text and sweeps are for those who want them
    from mi_core.compiling import Compiled
    from mi_core.generation import Generation
    from mi_core.streaming import Streamed
    from mi_core.sweep_plans import SweepPlan
    from mi_core.sweeping import Sweep
    from mi_core.tokenizer import Tokenizer

__all__ = ["Model"]

Lazy = Callable[[], "Tokenizer | None"]


class Model:
    """A backend with a name, a config and a tokenizer. `mi.load` and `mi.build` make it."""

    def __init__(
        self,
        backend: Backend,
        *,
        name: str,
        config: Mapping[str, Any],
        tokenizer: Tokenizer | Lazy | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        self.backend = backend
        self.name = name
        self.config = config
        self.provenance = provenance or Provenance(ref=name, family=name)
        self._tokenizer = tokenizer
        self.weights = Weights(backend, name)
        self.points = Points(backend.sites(), backend.shape, name, self.provenance)

    def __repr__(self) -> str:
        shape, how = self.shape, ", quantised" if self.provenance.quantised else ""
        return (
            f"Model({self.provenance.ref!r}, family {self.name!r}, {shape.n_layers} layers, d_model {shape.d_model}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}{how})"
        )

    @property
    def shape(self) -> ModelShape:
        """Layers, widths, context."""
        return self.backend.shape

    @property
    def module(self) -> nn.Module:
        """The backend as a module, for training and moving it."""
        if placed_in(self.backend) is not None:
            raise InputError(f"{self.name} is placed by a device map: to train or move it, load it on one device.")
        if not isinstance(self.backend, nn.Module):
            raise InputError(f"the backend of {self.name} is no nn.Module: it has no parameters to train or move.")
        return self.backend

    @property
    def device(self) -> torch.device:
        """Where the first parameter lies; of a model on several devices, where inputs and results are."""
        return self._home().device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first parameter."""
        return self._home().dtype

    def _home(self) -> PlacedBackend | Tensor:
        parameters = self.backend.parameters() if isinstance(self.backend, nn.Module) else iter(())
        return placed_in(self.backend) or next(parameters, torch.zeros(()))

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The checkpoint's tokenizer, read at first use; None where there is none."""
        if callable(self._tokenizer) and not hasattr(type(self._tokenizer), "encode"):
            self._tokenizer = self._tokenizer()
        return self._tokenizer  # type: ignore[return-value]

    @property
    def known_tokenizer(self) -> Tokenizer | None:
        """The tokenizer, if it has been read."""
        return self._tokenizer if hasattr(type(self._tokenizer), "encode") else None  # type: ignore[return-value]

    def bos_of(self, ids: Sequence[int]) -> str | None:
        """The begin-of-text token with which a row begins; None where it has none, or no tokenizer has been read."""
        known = self.known_tokenizer
        if known is None or known.bos is None or not ids or ids[0] != known.bos:
            return None
        return known.text(known.bos)

    def hook_points(self, pattern: str | list[str] | None = None) -> list[Point]:
        """The points of this model in firing order: all of them, or those that a pattern stands for.

        Raises:
            UnknownPoint: the pattern stands for none; the message names the closest.
        """
        return list(self.points) if pattern is None else self.points.match(pattern)

    def run(
        self,
        inputs: Any,
        spec: HookSpec | None = None,
        *,
        logits: Logits = "all",
        grad: bool = False,
        resumable: bool = False,
        batch_tokens: int | None = None,
        memory: ModelMemory | str | PathLike[str] | None = None,
        attention_mask: Any = None,
        position_ids: Any = None,
    ) -> Run:
        """Run the model on a prompt, or several, doing what a spec says.

        Args:
            inputs: a text, a `Chat`, a list of either, ids as a list or nested list of ints, or an id tensor
                ``[pos]`` or ``[batch pos]``.
            spec: captures, interventions and inserts.
            logits: ``"all"``; ``"last"`` for each row's last real token, ``[batch 1 d_vocab]``; None to stop after the
                last layer that the spec needs.
            grad: keep the graph, from the first captured point on.
            resumable: keep each layer's memory, for ``run.memory(pos)``.
            batch_tokens: run the rows in length-bucketed chunks of at most so many tokens; changes nothing but memory.
            memory: continue from what was remembered of a prefix, or from its file (``memory.save``); positions in
                selectors then count from here.
            attention_mask: which columns are real, any pattern; never guessed.
            position_ids: positions for rotary or learned embeddings, in the layout of the input.

        Raises:
            SpecError: the spec asks for what this model or input does not have; nothing was run.
            InputError: the input is empty, out of the vocabulary or longer than the context.
            MemoryMismatch: the memory belongs to another model or another number of rows.
        """
        began = time.perf_counter()
        plan = self.plan(
            inputs,
            spec,
            logits=logits,
            grad=grad,
            resumable=resumable,
            batch_tokens=batch_tokens,
            memory=memory,
            attention_mask=attention_mask,
            position_ids=position_ids,
        )
        return plan.run(began)

    def plan(
        self,
        inputs: Any,
        spec: HookSpec | None = None,
        *,
        logits: Logits = "all",
        grad: bool = False,
        resumable: bool = False,
        batch_tokens: int | None = None,
        memory: ModelMemory | str | PathLike[str] | None = None,
        attention_mask: Any = None,
        position_ids: Any = None,
    ) -> Plan:
        """What :meth:`run` with the same arguments would do, decided but not done, and what it would cost.

        ``plan.explain()`` says it in words, ``plan.run()`` does it.

        Raises:
            SpecError: the spec asks for what this model or input does not have.
            InputError: as in :meth:`run`.
        """
        spec = self._spec(spec)
        return planned(
            self,
            self._read(inputs, attention_mask, position_ids),
            spec,
            logits=logits,
            grad=grad,
            resumable=resumable,
            batch_tokens=batch_tokens,
            memory=memory,
        )

    def sweep(
        self,
        inputs: Any,
        specs: Sequence[HookSpec] | Mapping[Label, HookSpec] | Grid,
        metric: Metric | Callable[..., Tensor],
        *,
        batch: int | Literal["auto"] = "auto",
        store: str | PathLike[str] | None = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        progress: bool | None = None,
    ) -> Sweep:
        """Run many specs on one input and measure each; equal to the loop of full runs, at a fraction of the work.

        Every variant goes on from the shared base run at its own first layer and position.

        Args:
            inputs: as in :meth:`run`.
            specs: a list, a mapping from labels, or a grid (`mi.grid`, `mi.patch_grid`, ...).
            metric: from logits ``[batch d_vocab]`` at each row's last real token to ``[batch]``; see `mi.metric`.
            batch: how many tokens one call of a block may have; ``"auto"`` by the memory that is free now.
            store: a file of finished cells: they are read, not computed again, and new ones are added as they come.
            attention_mask: as in :meth:`run`.
            position_ids: as in :meth:`run`.
            progress: show a progress bar; None where standard error is a terminal.

        Raises:
            SweepInterrupted: Ctrl-C; its ``partial`` holds what was finished.
        """
        from mi_core.sweep_plans import planned_sweep
        from mi_core.sweeping import sweep

        masks = {"attention_mask": attention_mask, "position_ids": position_ids}
        return sweep(planned_sweep(self, inputs, specs, metric, batch=batch, **masks), store=store, progress=progress)

    def plan_sweep(
        self,
        inputs: Any,
        specs: Sequence[HookSpec] | Mapping[Label, HookSpec] | Grid,
        metric: Metric | Callable[..., Tensor],
        *,
        batch: int | Literal["auto"] = "auto",
        attention_mask: Any = None,
        position_ids: Any = None,
    ) -> SweepPlan:
        """What :meth:`sweep` with the same arguments would do, decided but not done, and what it would cost.

        ``plan.explain()`` says it in words. Nothing is run, not even a grid's source.
        """
        from mi_core.sweep_plans import planned_sweep

        masks = {"attention_mask": attention_mask, "position_ids": position_ids}
        return planned_sweep(self, inputs, specs, metric, batch=batch, run_source=False, **masks)

    def generate(
        self,
        inputs: Any,
        spec: HookSpec | None = None,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | Sequence[int] | None = None,
        stop: str | Sequence[str] = (),
        stop_at_eos: bool = True,
        cache: bool = True,
        stream: bool | Callable[[int, str, int], object] | None = None,
        memory: ModelMemory | str | PathLike[str] | None = None,
        attention_mask: Any = None,
        position_ids: Any = None,
    ) -> Generation:
        """Write on behind a prompt, or several, doing what a spec says at prompt and new tokens.

        In the spec, negative positions, spans and turns are the prompt's and never move, other numbers are absolute,
        slices without an end go on into the new tokens, and `PROMPT` and `GENERATED` are the two parts.

        Args:
            inputs: as in :meth:`run`.
            spec: captures, interventions and inserts.
            max_new_tokens: where a row ends at the latest.
            temperature: 0 for the likeliest token; else logits are divided by it, and sampled from.
            top_k: sample among the so many likeliest.
            top_p: sample among the likeliest that together have this probability.
            repetition_penalty: divides positive logits of tokens that the row has, and multiplies negative ones.
            seed: of the sampling, which depends on it, row and position only; or a row's own, to sample as if alone.
            stop: a text, or several, at which a row ends, wherever tokens begin.
            stop_at_eos: end a row at the end-of-text tokens of tokenizer and config.
            cache: remember keys, values and states, and run each token once; without it every step runs all anew.
            stream: a function of row, text and token id, called for each new token; True prints.
            memory: as in :meth:`run`: the prompt goes on from there.
            attention_mask: as in :meth:`run`.
            position_ids: as in :meth:`run`; new tokens count on from the last.

        Raises:
            SpecError: the spec asks for what this model or prompt does not have; nothing was run.
            ContextOverflow: prompt and new tokens are more than the model's positions; nothing was run.
            InputError: as in :meth:`run`, or a sampling value out of its range.
            GenerationInterrupted: Ctrl-C; its ``partial`` holds what was generated.
        """
        from mi_core.generating import generate

        drawn: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        return generate(
            self,
            inputs,
            self._spec(spec),
            max_new_tokens=max_new_tokens,
            repetition_penalty=repetition_penalty,
            **drawn,
            stop=stop,
            stop_at_eos=stop_at_eos,
            cache=cache,
            stream=stream,
            memory=memory,
            attention_mask=attention_mask,
            position_ids=position_ids,
        )

    def stream(
        self,
        inputs: Any,
        spec: HookSpec | None = None,
        *,
        chunk: int = 1024,
        losses: bool = True,
        memory: ModelMemory | str | PathLike[str] | None = None,
        attention_mask: Any = None,
        position_ids: Any = None,
    ) -> Streamed:
        """Run long inputs piece by piece, each piece going on from what the one before has left.

        Of the way only the losses and what the spec captures are kept, so that a recurrent model needs no more memory
        for a million tokens than for one piece; a layer that attends keeps every key and value, and the receipt says
        how much that was. Positions count on the whole input, and values that are written must be the same at each.

        Args:
            inputs: as in :meth:`run`.
            spec: captures, interventions and inserts.
            chunk: tokens of each row in one piece.
            losses: keep the loss of each token, for ``token_losses`` and ``loss``; needs every logit of a piece.
            memory: as in :meth:`run`.
            attention_mask: as in :meth:`run`.
            position_ids: as in :meth:`run`.

        Raises:
            SpecError: the spec asks for what this model or input does not have; nothing was run.
            InputError: as in :meth:`run`.
        """
        from mi_core.streaming import stream

        prompts = self._read(inputs, attention_mask, position_ids)
        before = remembered(memory, self, len(prompts.ids))
        return stream(self, prompts, self._spec(spec), chunk=chunk, losses=losses, memory=before)

    def compile(
        self, spec: HookSpec | None = None, *, logits: Logits = "all", strict: bool = False, **options: Any
    ) -> Compiled:
        """Runs and generations, compiled: see `Compiled`; ``options`` are those of `torch.compile`."""
        from mi_core.compiling import Compiled

        return Compiled(self, self._spec(spec), logits=logits, strict=strict, **options)

    def _spec(self, spec: HookSpec | None) -> HookSpec:
        if spec is None:
            return HookSpec()
        if not isinstance(spec, HookSpec):
            raise SpecError(
                f"{spec!r} is no spec: build one with mi.capture(...), mi.intervene(...), or their sum.", spec=spec
            )
        return spec

    def _read(self, inputs: Any, attention_mask: Any, position_ids: Any) -> Prompts:
        return read_inputs(inputs, self.shape, lambda: self.tokenizer, attention_mask, position_ids)

    def unembed(
        self, resid: Float[Tensor, "*batch d_model"], *, norm: bool = True, cap: bool = True
    ) -> Float[Tensor, "*batch d_vocab"]:
        """Logits of a residual stream with any leading dims: final norm, unembedding, scale and soft-cap.

        ``norm=False`` takes ``resid`` as what W_U multiplies; ``cap=False`` returns ``unembed.hook_out``, before
        scale and soft-cap.
        """
        if resid.shape[-1] != self.shape.d_model:
            raise InputError(
                f"a residual stream of {self.name} ends in d_model={self.shape.d_model}, got {list(resid.shape)}."
            )
        moved = resid.to(device=self.device, dtype=self.dtype)
        if norm and cap:
            return self.backend.unembed(moved, IDLE)
        return unembedded(self.backend, moved, norm, cap)
