"""Generation: one pass over the prompts, then a column for each new token, under a spec resolved on the prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_core.abreast import repeating
from mi_core.errors import ContextOverflow, InputError
from mi_core.generation import Generation, GenerationInterrupted
from mi_core.layout import Layout
from mi_core.memory import ModelMemory, remembered
from mi_core.number_inputs import read_inputs
from mi_core.prompts import Prompts
from mi_core.receipt import Receipt
from mi_core.rows import RowText, located, reader_of
from mi_core.sampling import Sampling
from mi_core.stepping import Steps
from mi_core.wording import Listener, Talk
from mi_core.writer import Writer

if TYPE_CHECKING:
    from mi_core.model import Model
    from mi_core.spec import HookSpec
    from mi_core.tokenizer import Tokenizer

__all__ = ["generate"]


def generate(
    model: Model,
    inputs: Any,
    spec: HookSpec,
    writing: Callable[..., Writer] = Writer,
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
    stream: bool | Listener | None = None,
    memory: ModelMemory | str | PathLike[str] | None = None,
    attention_mask: Any = None,
    position_ids: Any = None,
) -> Generation:
    """See :meth:`Model.generate`; ``writing`` makes the calls."""
    prompts = read_inputs(inputs, model.shape, lambda: model.tokenizer, attention_mask, position_ids)
    rows = len(prompts.ids)
    sampling = Sampling.of(temperature, top_k, top_p, repetition_penalty, seed, rows)
    before = remembered(memory, model, rows)
    began = time.perf_counter()
    layout = Layout.of(prompts, None if before is None else before.length)
    check_room(model, layout, max_new_tokens)
    steps = Steps(spec, model.points, layout, layout.length + max_new_tokens, prompts.rows)
    reader = reader_of(lambda: model.tokenizer) if stop else model.tokenizer
    writer = writing(model, layout, steps, cache, before)
    talk = Talk(reader, prompts, (stop,) if isinstance(stop, str) else tuple(stop), stream)
    ends = end_tokens(model, reader) if stop_at_eos else frozenset()
    state = State(model, prompts, layout, sampling, writer, talk, ends, max_new_tokens)
    try:
        with torch.no_grad(), repeating(model.backend, max_new_tokens):
            state.run()
    except KeyboardInterrupt as interrupt:
        raise GenerationInterrupted(state.result(time.perf_counter() - began)) from interrupt
    finally:
        writer.end()
    return state.result(time.perf_counter() - began)


def check_room(model: Model, layout: Layout, max_new_tokens: int) -> None:
    """Refuse what cannot be generated, before anything runs."""
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens!r}: give a whole number of at least 1.")
    if not model.shape.causal:
        raise InputError(f"{model.name} reads in both directions, so it cannot write on: there is nothing to generate.")
    if model.shape.numbers is not None:
        raise InputError(f"{model.name} reads numbers and returns none to go on with: there is nothing to generate.")
    layout.check_positions(model.shape, model.name)
    n_ctx = model.shape.n_ctx
    if n_ctx is None:
        return
    last = layout.positions[torch.arange(len(layout.ids)), layout.length - 1]
    room = n_ctx - 1 - last
    row = int(room.argmin())
    if int(room[row]) < max_new_tokens:
        raise ContextOverflow(
            f"row {row} has {int(layout.length[row])} tokens and {model.name} has {n_ctx} positions, so "
            f"{int(room[row])} new tokens fit, not {max_new_tokens}. Nothing was run: ask for fewer, or shorten the "
            "prompt.",
            row=row,
            fits=int(room[row]),
            n_ctx=n_ctx,
        )


def end_tokens(model: Model, tokenizer: Tokenizer | None) -> frozenset[int]:
    """The ids that end a text: the tokenizer's, and those that the config names."""
    named = model.config.get("eos_token_id")
    ids = [] if named is None else named if isinstance(named, list | tuple) else [named]
    own = None if tokenizer is None else tokenizer.eos
    return frozenset([*ids, *([] if own is None else [own])])


class State:
    """A generation while it runs."""

    def __init__(
        self,
        model: Model,
        prompts: Prompts,
        layout: Layout,
        sampling: Sampling,
        writer: Writer,
        talk: Talk,
        ends: frozenset[int],
        most: int,
    ) -> None:
        self.model, self.prompts, self.layout, self.sampling = model, prompts, layout, sampling
        self.writer, self.talk, self.ends, self.most = writer, talk, ends, most
        self.new: list[list[int]] = [[] for _ in writer.ids]
        self.ended: list[str] = [""] * len(writer.ids)
        self.scores: list[tuple[list[int], Tensor]] = []

    def run(self) -> None:
        """Choose tokens until every row has ended; then compute what is captured at the last ones."""
        captures, cache = self.writer.steps.captures, self.writer.cache
        pending = list(range(len(self.new)))
        while pending:
            logits = self.writer.advance(pending, capture=captures and cache)
            alive = [at for at, row in enumerate(pending) if not self.ended[row]]
            going = [pending[at] for at in alive]
            if len(alive) < len(pending):
                logits = logits[torch.tensor(alive, dtype=torch.long, device=logits.device)]
            if going:
                self._choose(going, logits)
            # a row that has just ended is run once more where its last token is captured
            pending = [row for row in going if not self.ended[row] or (captures and cache)]
        if captures and not cache:
            self.writer.advance(list(range(len(self.new))), capture=True)

    def _choose(self, rows: list[int], logits: Float[Tensor, "rows d_vocab"]) -> None:
        ids = self.writer.ids
        begun, context = self.layout.start.tolist(), [ids[row] for row in rows]
        positions = [begun[row] + len(ids[row]) for row in rows]
        tokens = self.sampling.choose(logits, rows, positions, context)
        self.scores.append((rows, logits))
        for row, token in zip(rows, tokens, strict=True):
            ids[row].append(token)
            self.new[row].append(token)
            end = token in self.ends
            stopped = self.talk.hear(row, token, said=not end)
            full = len(self.new[row]) == self.most
            self.ended[row] = "eos" if end else "stop" if stopped else "length" if full else ""
        for row, token in zip(rows, tokens, strict=True):
            self.talk.tell(row, token, last=bool(self.ended[row]))

    def result(self, seconds: float) -> Generation:
        """What was generated, as a run over all of it."""
        for wording in self.talk.rows:
            wording.end()
        rows = tuple(extended(row, new) for row, new in zip(self.prompts.rows, self.new, strict=True))
        layout = self._layout()
        positions = layout.positions if self.prompts.position_ids is not None else None
        steps = self.writer.steps
        seeds = self.sampling.seeds
        return Generation(
            new_tokens=self.new,
            text=[wording.text for wording in self.talk.rows] if self.talk.has_text else None,
            ended=[why or "interrupted" for why in self.ended],
            seed=None if self.sampling.greedy else seeds[0] if len(seeds) == 1 else seeds,
            scores=self._scores(),
            prompts=Prompts(layout.ids, layout.mask, positions, rows),
            layout=layout,
            points=steps.binding.points,
            captured=steps.captured(layout, self.model.dtype, before=False),
            before=steps.captured(layout, self.model.dtype, before=True),
            receipt=self._receipt(layout, seconds),
        )

    def _layout(self) -> Layout:
        """Prompt and new tokens of every row, padded on the right."""
        length = torch.tensor([len(ids) for ids in self.writer.ids])
        width = int(length.max())
        ids = torch.tensor([row + [0] * (width - len(row)) for row in self.writer.ids])
        real = torch.arange(width) < length[:, None]
        positions = torch.stack([self.writer.positions(row, 0, width) for row in range(len(ids))])
        return Layout(
            ids,
            length,
            torch.where(real, positions, 0),
            self.layout.start,
            None if bool(real.all()) else real,
            prompt=self.layout.length,
        )

    def _scores(self) -> Float[Tensor, "batch new d_vocab"]:
        """The logits that each new token was chosen from."""
        model = self.model
        if not self.scores:
            return torch.zeros(len(self.new), 0, model.shape.d_vocab, dtype=model.dtype, device=model.device)
        every, columns = len(self.new), []
        for rows, logits in self.scores:
            if len(rows) < every:
                index = torch.tensor(rows, device=logits.device)
                logits = logits.new_zeros(every, logits.shape[-1]).index_copy(0, index, logits)
            columns.append(logits)
        return torch.stack(columns, 1)

    def _receipt(self, layout: Layout, seconds: float) -> Receipt:
        model, steps, writer = self.model, self.writer.steps, self.writer
        binding = steps.binding
        layers = range(model.shape.n_layers)
        notes = [*binding.notes, *steps.unreached(layout.length)]
        if writer.again:
            notes.append(f"{len(writer.again)} step(s) ran their rows again from the first token: {writer.again[-1]}")
        if not all(self.ended):
            notes.append("interrupted: what was not computed by then reads as zeros")
        return Receipt(
            model=model.name,
            provenance=model.provenance,
            spec=repr(binding.spec),
            asked=dict(binding.spellings),
            fired=tuple(name for name in binding.points.by_name if name in steps.fired),
            layers=tuple(layers),
            stopped_after=None,
            kernels={layer: binding.kernel(layer) for layer in layers},
            tokens=tuple(layout.length.tolist()),
            bos=tuple(model.bos_of(row.ids) for row in self.prompts.rows),
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            seconds=seconds,
            notes=tuple(notes),
        )


def extended(prompt: RowText, new: Sequence[int]) -> RowText:
    """The row of prompt and new tokens; the prompt's own text stays as it was written."""
    ids = (*prompt.ids, *new)
    if prompt.written is None:
        return RowText(ids, chat=prompt.chat, tokenizer=prompt.tokenizer)
    text, offsets = prompt.written
    whole, read = located(prompt.reader(), ids)
    begin = read[len(prompt.ids) - 1][1]
    behind = tuple((len(text) + start - begin, len(text) + stop - begin) for start, stop in read[len(prompt.ids) :])
    special = None if prompt.special is None else (*prompt.special, *[False] * len(new))
    return RowText(ids, (text + whole[begin:], (*offsets, *behind)), special, prompt.chat, prompt.tokenizer)
