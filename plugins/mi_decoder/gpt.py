"""What configs and checkpoints in GPT-2's spelling share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_decoder.fused import View
from mi_decoder.translation import Source

__all__ = ["GptSizes", "gpt_names", "gpt_sizes"]


@dataclass(frozen=True)
class GptSizes:
    """The sizes of a decoder whose heads share the stream's width."""

    d_model: int
    n_layers: int
    n_heads: int
    n_ctx: int
    d_mlp: int

    @property
    def d_head(self) -> int:
        """Dims of a head."""
        return self.d_model // self.n_heads


def gpt_sizes(config: Config, *, n_ctx: int) -> GptSizes:
    """The sizes under their oldest names; ``n_ctx`` is the family's default. Source: transformers 5.24, GPT2Config.

    Raises:
        BadConfig: the heads do not divide the width.
    """
    d_model, n_heads = config.size("n_embd"), config.size("n_head")
    if d_model % n_heads:
        raise BadConfig(
            f"{config.where}: 'n_head' is {n_heads!r}: it must divide 'n_embd' ({d_model!r}).", path=config.where
        )
    d_mlp = config.size("n_inner", default=4 * d_model)
    return GptSizes(d_model, config.size("n_layer"), n_heads, config.size("n_positions", default=n_ctx), d_mlp)


def gpt_names(stored: View | None = None) -> Mapping[str, Source]:
    """Our modules -> GPT-2's, whose matrices are ``stored`` in another order than torch's if that is given."""
    layer, view = "transformer.h.*", stored

    def matrix(name: str) -> Source:
        return f"{layer}.{name}" if view is None else (f"{layer}.{name}", view)

    return {
        "embed": "transformer.wte",
        "pos_embed": "transformer.wpe",
        "layers.*.ln1": f"{layer}.ln_1",
        "layers.*.mixer.o": matrix("attn.c_proj"),
        "layers.*.ln2": f"{layer}.ln_2",
        "layers.*.channel.in": matrix("mlp.c_fc"),
        "layers.*.channel.out": matrix("mlp.c_proj"),
        "ln_final": "transformer.ln_f",
        "unembed": "lm_head",
    }
