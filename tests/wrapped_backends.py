"""A correct LLaMA, and what stands around it so that one thing can be changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from mi_core.building import build, initialise_randomly
from mi_core.model import Model

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_bias": True,
    "max_position_embeddings": 64,
}


class Meddler:
    """A tap behind a tap; what it does to a value is given."""

    def __init__(self, tap: Any, change: Callable[[Any, str, Tensor], Tensor]) -> None:
        self.tap, self.change = tap, change

    def __call__(self, name: str, value: Tensor) -> Tensor:
        return self.change(self.tap, name, value)

    def wants(self, *names: str) -> bool:
        return bool(self.tap.wants(*names))

    def edits(self, *names: str) -> bool:
        return bool(self.tap.edits(*names))

    def cut_edges(self) -> Tensor | None:
        return self.tap.cut_edges()


class Wrapped(nn.Module):
    """A backend around a correct one; as it is, it changes nothing."""

    config = CONFIG
    """Of the model that it stands around."""
    site = ""
    """The one site at which `meddle` is called."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.shape = inner.shape

    @property
    def blocks(self) -> Any:
        return tuple(
            lambda stream, batch, tap, memory, layer=layer, block=block: self.block(
                layer, block, stream, batch, self.wrap(tap), memory
            )
            for layer, block in enumerate(self.inner.blocks)
        )

    def block(self, layer: int, block: Any, stream: Any, batch: Any, tap: Any, memory: Any) -> Any:
        return block(stream, batch, tap, memory)

    def wrap(self, tap: Any) -> Any:
        return Meddler(tap, self.change)

    def change(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return self.meddle(tap, name, value) if name == self.site else tap(name, value)

    def meddle(self, tap: Any, name: str, value: Tensor) -> Tensor:
        return tap(name, value)

    def sites(self) -> Any:
        return tuple(self.inner.sites())

    def embed(self, batch: Any, tap: Any) -> Any:
        return self.inner.embed(batch, Meddler(tap, lambda tap, name, value: tap(name, self.embedded(batch, value))))

    def embedded(self, batch: Any, value: Tensor) -> Tensor:
        return value

    def unembed(self, resid: Tensor, tap: Any) -> Tensor:
        return self.inner.unembed(resid, self.wrap(tap))

    def weight(self, name: str) -> Tensor:
        return self.inner.weight(name)


def plain(config: dict[str, Any] = CONFIG) -> Model:
    """The correct model."""
    model = build(config, trainable=False, device="cpu")
    initialise_randomly(model, 0)
    return model
