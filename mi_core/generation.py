"""What a model wrote behind its prompts: a run over prompt and new tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_core.errors import MissingActivation, NoTokenizer
from mi_core.run import Run
from mi_core.selectors import chosen
from mi_core.tokens import TopTokens, nested

__all__ = ["Generation", "GenerationInterrupted"]


class Generation(Run):
    """Prompts and what was generated behind them, padded on the right; a `Run` over all of it.

    Selectors count as they did in the spec: negative positions, spans and turns are the prompt's, `GENERATED` is what
    came behind it.
    """

    def __init__(
        self,
        *,
        new_tokens: Sequence[Sequence[int]],
        text: Sequence[str] | None,
        ended: Sequence[str],
        seed: int | tuple[int, ...] | None,
        scores: Float[Tensor, "batch new d_vocab"],
        **run: Any,
    ) -> None:
        super().__init__(logits=None, last_only=False, **run)
        self.new_tokens: list[list[int]] = [list(row) for row in new_tokens]
        """The new ids of each row, an end-of-text token included."""
        self.ended: list[str] = list(ended)
        """Why each row ended: ``"eos"``, ``"stop"``, ``"length"`` or ``"interrupted"``."""
        self.seed = seed
        """What was sampled with: give it again for the same tokens; None of a greedy generation."""
        self._text = text
        self._scores = scores

    def __repr__(self) -> str:
        rows, columns = self.tokens.shape
        new = ", ".join(map(str, map(len, self.new_tokens)))
        return f"Generation({self.receipt.model!r}, {rows} x {columns} tokens, {new} new, {len(self)} activations)"

    @property
    def text(self) -> list[str]:
        """The new text of each row: without the end-of-text token, and up to the stop string if one was found.

        Raises:
            NoTokenizer: the model has none.
        """
        if self._text is None:
            raise NoTokenizer("this generation has no text: the model has no tokenizer. Read new_tokens.")
        return list(self._text)

    @property
    def prompt_length(self) -> Int[Tensor, "batch"]:
        """How many tokens of each row are its prompt."""
        assert self._layout.prompt is not None
        return self._layout.prompt

    @property
    def logits(self) -> Float[Tensor, "batch new d_vocab"]:
        """The logits that each new token was chosen from, before penalty and temperature; zeros behind a row's last.

        Those of the other positions were not computed: capture ``"hook_logits"``, or run ``generation.tokens``.
        """
        return self._scores

    @property
    def last_logits(self) -> NoReturn:
        """Refused: nothing was predicted behind the last token."""
        raise self._incomplete("last_logits")

    def _need_all_logits(self, what: str) -> NoReturn:
        raise self._incomplete(what)

    def compare(self, base: Run) -> NoReturn:
        """Refused: two generations are of different tokens."""
        raise self._incomplete("compare")

    def _incomplete(self, what: str) -> MissingActivation:
        return MissingActivation(
            f"{what} needs logits that a generation does not compute (it has those of its new tokens): run the model "
            "on generation.tokens with attention_mask=generation.mask."
        )

    def top(self, k: int = 5, pos: int | None = -1) -> TopTokens:
        """The ``k`` most probable tokens after a position: -1 is the prompt's last; None: for each new token."""
        scores = self._scores.detach().float()
        if pos is not None:
            step = torch.tensor([self._step(pos, row) for row in range(len(scores))], device=scores.device)
            scores = scores[torch.arange(len(scores), device=scores.device), step]
        values, ids = scores.softmax(-1).topk(min(k, scores.shape[-1]))
        return TopTokens(ids.cpu(), values.cpu(), nested(self, ids.tolist()))

    def _step(self, pos: int, row: int) -> int:
        """Which new token of a row was predicted at a position."""
        length = int(self.prompt_length[row])
        at = pos if pos >= 0 else chosen(pos, length, dim="pos", where=f"the prompt of row {row}")[0]
        step = at - length + 1
        if not 0 <= step < len(self.new_tokens[row]):
            raise MissingActivation(
                f"no token was predicted at position {at} of row {row}: a generation has the logits of positions "
                f"{length - 1} to {length + len(self.new_tokens[row]) - 2} there.",
                pos=pos,
            )
        return step

    def to(self, target: torch.device | torch.dtype | str) -> Generation:
        """The same on another device, or with its floating-point tensors in another dtype."""
        moved = super().to(target)
        return Generation(
            new_tokens=self.new_tokens,
            text=self._text,
            ended=self.ended,
            seed=self.seed,
            scores=self._scores.to(target),
            prompts=moved._prompts,
            layout=moved._layout,
            points=moved._points,
            captured=moved._captured,
            before=moved._before,
            receipt=moved.receipt,
        )


class GenerationInterrupted(KeyboardInterrupt):
    """Ctrl-C while generating; ``partial`` holds what had been generated by then."""

    def __init__(self, partial: Generation) -> None:
        counts = ", ".join(str(len(row)) for row in partial.new_tokens)
        super().__init__(f"interrupted after {counts} new tokens; .partial holds them")
        self.partial = partial
