"""Recurrent backends that are broken on purpose, for the checks that only recurrent models have."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor
from wrapped_backends import Wrapped

RECURRENT: dict[str, Any] = {
    "model_type": "rwkv7",
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "head_dim": 8,
    **{f"{name}_low_rank_dim": 4 for name in ("decay", "a", "v", "gate")},
}


class WrappedRecurrent(Wrapped):
    """Around a correct RWKV-7; as it is, it changes nothing."""

    config = RECURRENT


class ForgetsHalfItsState(WrappedRecurrent):
    def block(self, layer: int, block: Any, stream: Any, batch: Any, tap: Any, memory: Any) -> Any:
        if memory is not None:
            kept = memory.mixer.kept
            halved = dataclasses.replace(memory.mixer, kept={**kept, "state": kept["state"] * 0.5})
            memory = dataclasses.replace(memory, mixer=halved)
        return block(stream, batch, tap, memory)


class TakesOtherSteps(WrappedRecurrent):
    """One token alone is computed otherwise than many."""

    site = "mixer.hook_wkv"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value * 1.01 if value.shape[1] == 1 else value)


class LosesSomeOfWhatIsWritten(WrappedRecurrent):
    site = "mixer.hook_state"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return value + 0.9 * (tap(name, value) - value)


class CarriesWhatHasNoName(WrappedRecurrent):
    """A write to what the channel part leaves for the next position reaches nobody."""

    site = "mixer.hook_channel_shift"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        tap(name, value)
        return value


class LeavesTheGateAjar(WrappedRecurrent):
    site = "mixer.hook_write_gate"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value).clamp(min=0.1)


class OpensTheGateTooFar(WrappedRecurrent):
    site = "mixer.hook_write_gate"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value) * (1.01 if tap.edits(name) else 1.0)


class ShowsSizesOnly(WrappedRecurrent):
    site = "mixer.hook_effective_attn"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value.abs())


class SharesOutWhatIsCut(WrappedRecurrent):
    """As attention does: the others of the row take what a cut edge had."""

    site = "mixer.hook_wkv"

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value * 1.1 if tap.cut_edges() is not None else value)
