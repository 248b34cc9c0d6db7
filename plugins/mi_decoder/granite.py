"""Granite's decoder: multipliers of embeddings, scores, what is added to the stream, and logits.

Source: Granite Team 2024, ibm.com/granite; transformers 5.24, models/granite and models/granite_swa.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_decoder.attention import Attention
from mi_decoder.decoder import Decoder
from mi_decoder.layers import Layer
from mi_decoder.norms import RMSNorm
from mi_decoder.parts import Channel, Mixer
from mi_decoder.rope_config import rotary
from mi_decoder.translation import decoder, heads, or_none
from mi_decoder.windows import layer_windows

__all__ = ["Everywhere", "granite_attention", "granite_decoder", "sliding_granite_attention"]

Everywhere = tuple[Mixer | Callable[[int], Mixer], int | None]
"""The mixer of all layers, or of each by its index; and the positions that attention reaches."""


def granite_decoder(config: Config, attention: Everywhere, channel: Channel, *, eps: float = 1e-6) -> Decoder:
    """A decoder whose layers differ in their mixer at most; ``eps`` is the norms', where a config has none."""
    norm = RMSNorm(config.number("rms_norm_eps", default=eps, at_least=0.0))
    multiplier = config.number("residual_multiplier", default=1.0)
    outside = {
        "embed_scale": config.number("embedding_multiplier", default=1.0),
        "logit_scale": 1.0 / config.number("logits_scaling", default=1.0, at_least=1e-9),
    }
    mixer, reach = attention

    def layer(index: int) -> Layer:
        own = mixer if isinstance(mixer, Mixer) else mixer(index)
        return Layer(own, channel, ln1=norm, ln2=norm, multiplier=multiplier)

    return decoder(config, layer, norm, reach, **outside)


def granite_attention(
    config: Config, *, n_kv_heads: int | None = None, n_ctx: int = 2048, **values: Any
) -> tuple[Attention, int | None]:
    """Attention whose scores have a factor of their own.

    The numbers are the family's, where a config leaves them out; ``values`` are what else its attention has.
    """
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=n_kv_heads)
    n_ctx = config.size("max_position_embeddings", default=n_ctx)
    positions = rotary(config, d_head, n_ctx)
    bias = config.flag("attention_bias", default=False)
    values |= {"bias": bias, "out_bias": bias, "scale": config.number("attention_multiplier", default=1.0)}
    return Attention(n_heads, n_kv_heads, d_head, positions, **values), positions.scaling.reach(n_ctx)


def sliding_granite_attention(config: Config, **numbers: Any) -> Everywhere:
    """The same with sinks; layers differ in their window, and in the base of their rotary positions, where 0 is none.

    Raises:
        BadConfig: bases that are not one for each layer.

    Source: transformers 5.24, GraniteSWAConfig, GraniteSWAModel.
    """
    mixer, reach = granite_attention(config, sinks=True, **numbers)
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 128))
    windows = layer_windows(config, window, lambda index: index % 4 != 0)
    bases = config.get("layer_rope_theta")
    if bases is None:
        return lambda index: replace(mixer, window=windows[index]), reach
    if not isinstance(bases, list) or len(bases) != len(windows) or not all(usable(base) for base in bases):
        raise BadConfig(
            f"{config.where}: 'layer_rope_theta' is {bases!r}, it must be a list of {len(windows)} numbers above one, "
            "or 0 for layers without positions.",
            path=config.where,
        )
    turned: Any = mixer.positions

    def layer(index: int) -> Attention:
        positions = replace(turned, theta=float(bases[index])) if bases[index] else None
        return replace(mixer, window=windows[index], positions=positions)

    return layer, reach


def usable(base: object) -> bool:
    """Whether rotary positions can have this base, or none is meant."""
    return isinstance(base, int | float) and not isinstance(base, bool) and (base == 0 or base > 1)
