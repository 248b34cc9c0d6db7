"""What a sweep measures: one number for each row, from the logits at its last real token.

A metric is any function ``logits [batch d_vocab] -> [batch]``; :func:`metric` asks for more. The ones here take
answers as text: one for all rows, one for each row, or a set for each row; each must be a single token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_core.errors import NoTokenizer, ValueMismatch
from mi_core.fingerprint import fingerprint
from mi_core.losses import losses_of

if TYPE_CHECKING:
    from mi_core.layout import Layout
    from mi_core.model import Model
    from mi_core.run import Run

__all__ = ["Metric", "kl", "log_prob", "logit", "logit_diff", "loss", "metric", "prob", "rank"]

Answers: TypeAlias = str | int | Sequence[Any]
Function: TypeAlias = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Metric:
    """A function of the logits, and what it needs of them."""

    function: Function
    """``logits -> [batch]``, or ``(logits, activations) -> [batch]`` where it ``reads``."""
    name: str = "metric"
    unit: str = ""
    pos: Any = -1
    """``-1``: each row's last real token, ``[batch d_vocab]``; ``"all"``: ``[batch pos d_vocab]``, left-aligned."""
    reads: tuple[str, ...] = ()
    prepare: Callable[[Model, int], Function] | None = None
    """Makes the function for a model and a number of rows: where answers become token ids."""
    content: Any = None
    """What tells it from other metrics in a store of finished cells: its name and answers; None: nothing does."""

    def bound(self, model: Model, batch: int) -> Metric:
        """The same metric with its answers looked up."""
        if self.prepare is None:
            return self
        return replace(self, function=self.prepare(model, batch), prepare=None)

    def of(self, run: Run) -> Float[Tensor, "batch"]:
        """The numbers of a run whose answers are looked up; under gradients, part of its graph.

        Raises:
            MissingActivation: the run kept fewer logits than the metric needs, or did not capture what it reads.
        """
        if self.pos != -1:
            run._need_all_logits(f"the metric {self.name!r}")
        logits = run.last_logits if self.pos == -1 else run._logits
        assert logits is not None
        return self.measure(logits, run._layout, {name: run._find(name, run._captured).value for name in self.reads})

    def measure(self, logits: Tensor, layout: Layout, activations: Mapping[str, Tensor]) -> Float[Tensor, "batch"]:
        """The numbers of one variant, float32; refuses a function that returns something else.

        ``logits`` is ``[batch d_vocab]`` where ``pos`` is -1, else ``[batch pos d_vocab]``.
        """
        given = (logits.float(), activations) if self.reads else (logits.float(),)
        values = self.function(*given, layout) if self.pos == "losses" else self.function(*given)
        rows = len(logits)
        if not isinstance(values, Tensor) or values.shape != (rows,):
            seen = list(values.shape) if isinstance(values, Tensor) else repr(values)
            raise ValueMismatch(
                f"the metric {self.name!r} returned {seen} for logits {list(logits.shape)}; it must return one number "
                f"for each row: [{rows}].",
                metric=self.name,
            )
        return values.float()


def metric(function: Function, *, pos: Any = -1, reads: Sequence[str] = (), name: str | None = None) -> Metric:
    """A metric from a function, saying what it needs.

    ``pos="all"`` gives it ``[batch pos d_vocab]``; ``reads`` gives it a mapping from points to activations as its
    second argument. ``name`` also tells it from others in a store of finished cells.
    """
    called = name or str(getattr(function, "__name__", "metric"))
    return Metric(function, called, pos=pos, reads=tuple(reads), content=name)


def as_metric(given: Metric | Function) -> Metric:
    """A plain function as a metric."""
    return given if isinstance(given, Metric) else metric(given)


def logit(answer: Answers) -> Metric:
    """The answer's logit; of a set, the log of the summed exponentials."""
    return of_answers("logit", "logits", lambda logits, chosen: pooled(logits, chosen), answer)


def logit_diff(answer: Answers, against: Answers) -> Metric:
    """How far the answer's logit is above the other's.

    >>> logit_diff(3, 5).name
    'logit difference'
    """

    def difference(logits: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
        return pooled(logits, chosen) - pooled(logits, other)

    return of_answers("logit difference", "logits", difference, answer, against)


def log_prob(answer: Answers) -> Metric:
    """The answer's log probability, nats; of a set, that of any of them."""
    return of_answers("log probability", "nats", lambda x, chosen: pooled(x.log_softmax(-1), chosen), answer)


def prob(answer: Answers) -> Metric:
    """The answer's probability; of a set, their sum."""
    return of_answers("probability", "probability", lambda x, chosen: pooled(x.log_softmax(-1), chosen).exp(), answer)


def rank(answer: Answers) -> Metric:
    """How many tokens are more probable than the answer (0: it is on top); of a set, than the best of them."""

    def above(logits: Tensor, chosen: Tensor) -> Tensor:
        best = logits.gather(1, chosen.clamp(min=0)).masked_fill(chosen < 0, -torch.inf).amax(-1, keepdim=True)
        return (logits > best).sum(-1).float()

    return of_answers("rank", "", above, answer)


def loss() -> Metric:
    """The mean loss (nats) of each row's tokens given those before them."""

    def mean_loss(logits: Tensor, layout: Layout) -> Tensor:
        return losses_of(logits, layout).sum(1) / (layout.length - 1).clamp(min=1).to(logits.device)

    return Metric(mean_loss, "loss", "nats", pos="losses", content="loss")


def kl(base: Run) -> Metric:
    """KL(base || variant) of the next-token distribution at each row's last real token, nats."""
    reference = base.last_logits.detach().float().log_softmax(-1)

    def divergence(logits: Tensor) -> Tensor:
        before = reference.to(logits.device)
        return (before.exp() * (before - logits.log_softmax(-1))).sum(-1).clamp(min=0)

    return Metric(divergence, "KL divergence", "nats", content=("KL", fingerprint(reference)))


def pooled(logits: Float[Tensor, "batch d_vocab"], chosen: Int[Tensor, "batch n"]) -> Float[Tensor, "batch"]:
    """The log of the summed exponentials of the chosen entries; of one, that entry. -1 stands for none."""
    taken = logits.gather(1, chosen.clamp(min=0))
    return taken[:, 0] if chosen.shape[1] == 1 else taken.masked_fill(chosen < 0, -torch.inf).logsumexp(-1)


def of_answers(name: str, unit: str, function: Callable[..., Tensor], *answers: Answers) -> Metric:
    """A metric whose function gets, for each answer, the ids ``[batch n]`` of its tokens."""

    def prepare(model: Model, batch: int) -> Function:
        ids = [answer_ids(answer, model, batch).to(model.device) for answer in answers]
        return lambda logits: function(logits, *(own.to(logits.device) for own in ids))

    def unprepared(_logits: Tensor) -> Tensor:
        raise ValueMismatch(f"the metric {name!r} names answers: call metric.bound(model, batch) first.")

    return Metric(unprepared, name, unit, prepare=prepare, content=(name, answers))


def answer_ids(answer: Answers, model: Model, batch: int) -> Int[Tensor, "batch n"]:
    """The tokens that each row's answer is, filled up with -1."""
    single = isinstance(answer, str | int)
    rows = [answer] * batch if single else list(answer)  # type: ignore[arg-type]
    if not single and len(rows) == 1 and batch > 1:
        rows = rows * batch
    if len(rows) != batch:
        raise ValueMismatch(
            f"{len(rows)} answers were given for {batch} rows: give one for all rows, or one (or a set) for each."
        )
    found = [[token_id(t, model) for t in ([row] if isinstance(row, str | int) else sorted(set(row)))] for row in rows]
    if not all(found):
        raise ValueMismatch(f"row {found.index([])} has an empty set of answers.")
    width = max(map(len, found))
    return torch.tensor([row + [-1] * (width - len(row)) for row in found])


def token_id(token: str | int, model: Model) -> int:
    """A token's id; a text must be a single token."""
    if isinstance(token, int):
        if not 0 <= token < model.shape.d_vocab:
            raise ValueMismatch(f"answer {token} is out of the vocabulary of {model.shape.d_vocab} tokens.")
        return token
    if model.tokenizer is None:
        raise NoTokenizer(f"the answer {token!r} is text, and {model.name} has no tokenizer: give a token id.")
    return model.tokenizer.single(token)
