"""AlgZoo's recurrent networks as a family, ``model_type: algzoo_rnn``, and the published files without a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mi_algzoo.rnn import ReluRNN
from mi_algzoo.tasks import TASKS
from mi_core.blueprint import Blueprint, Weight
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_core.tensors import TensorIndex

__all__ = ["mi_config", "mi_family", "mi_family_examples"]

NAMES: Final = {
    "weight_ih": "rnn.weight_ih_l0",
    "weight_hh": "rnn.weight_hh_l0",
    "weight_oh": "linear.weight",
}


@hookimpl
def mi_family(config: Config) -> Blueprint:
    """``hidden_size``, ``seq_len``, and a ``task`` that says how many numbers come out."""
    hidden, length = config.size("hidden_size"), config.size("seq_len")
    task = TASKS[config.choice("task", tuple(TASKS), default="second_argmax")]
    outputs = config.size("output_size", default=task.classes(length))
    return Blueprint(
        backend=lambda: ReluRNN(hidden, length, outputs),
        weights={ours: Weight.of(theirs) for ours, theirs in NAMES.items()},
    )


@hookimpl
def mi_config(tensors: TensorIndex) -> Mapping[str, Any] | None:
    """Of a published file: sizes from the shapes; a model that returns n numbers reads n."""
    if set(tensors) != set(NAMES.values()):
        return None
    hidden, outputs = tensors[NAMES["weight_hh"]].shape[0], tensors[NAMES["weight_oh"]].shape[0]
    if outputs == 1:
        raise BadConfig(
            f"{tensors.where}: a network that returns one number does not tell how many it reads. Put a config.json "
            f'beside it: {{"model_type": "algzoo_rnn", "task": "median", "hidden_size": {hidden}, "seq_len": ...}}.',
            where=tensors.where,
        )
    return {"model_type": "algzoo_rnn", "hidden_size": hidden, "seq_len": outputs}


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: one answer of several, and a number."""
    tiny = {"model_type": "algzoo_rnn", "hidden_size": 32, "seq_len": 3}
    return tiny, tiny | {"task": "median", "seq_len": 2}, tiny | {"seq_len": 2, "output_size": 5}
