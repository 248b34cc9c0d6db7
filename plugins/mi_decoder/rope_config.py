"""Rotary positions from a checkpoint's config, in both spellings that are in use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_decoder.rope_scalings import Dynamic, Linear, Llama3, LongRope, Proportional, Unscaled, Yarn
from mi_decoder.rotary import Rotary, Scaling

__all__ = ["magnitude", "rope_of_kind", "rope_values", "rotary"]

KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")
POSITIVE = 1e-9


def rotary(
    config: Config,
    d_head: int,
    n_ctx: int,
    *,
    rope: Config | None = None,
    theta: float = 10000.0,
    theta_key: str = "rope_theta",
    part: float | None = None,
    part_key: str = "partial_rotary_factor",
    aliases: Mapping[str, str] = MappingProxyType({}),
    interleaved: bool = False,
    wide: bool = False,
) -> Rotary:
    """Which rotary positions does a config ask for?

    ``rope_parameters`` (transformers 5) and ``rope_theta`` with ``rope_scaling`` (transformers 4) are both read, or
    ``rope`` alone if it is given. ``n_ctx`` is ``max_position_embeddings``; ``theta`` and ``part`` are the family's
    defaults (``part`` None: it turns whole heads only), ``theta_key`` and ``part_key`` its older spellings;
    ``aliases`` are other names for scalings.

    Raises:
        BadConfig: an unknown scaling, a missing or impossible number, or two spellings that contradict each other.

    Source: transformers 5.24, RotaryEmbeddingConfigMixin (which spelling wins, and the defaults).
    """
    rope = rope_values(config) if rope is None else rope
    kinds = (*KINDS, *aliases)
    kind = rope.choice("rope_type", kinds, default=rope.choice("type", kinds, default="default"))
    kind = aliases.get(kind, kind)
    outer_theta = config.number(theta_key, default=theta, at_least=1.01) if theta_key else theta
    outer_part = config.number(part_key, default=part or 1.0, at_least=POSITIVE, at_most=1.0)
    turned = rope.number("partial_rotary_factor", default=outer_part, at_least=POSITIVE, at_most=1.0)
    n_dims = d_head if kind == "proportional" else int(d_head * turned)
    if turned != 1.0 and part is None and kind != "proportional":
        raise refused(config, f"{part_key!r} is {turned!r}, but this family turns whole heads: remove it")
    if n_dims % 2 or n_dims < (4 if kind == "dynamic" else 2):
        raise refused(config, f"{n_dims!r} of {d_head!r} dims of a head turn in pairs: make 'head_dim' even")
    base = rope.number("rope_theta", default=outer_theta, at_least=1.01)
    if kind == "proportional":
        factor = rope.number("factor", default=1.0, at_least=POSITIVE)
        return Rotary(d_head, base, Proportional(turning=int(turned * d_head // 2), factor=factor), interleaved, wide)
    return Rotary(n_dims, base, scaling(kind, config, rope, n_ctx, n_dims), interleaved, wide)


def rope_of_kind(
    config: Config, kind: str, *, scaled: bool = False, absent: Mapping[str, object] = MappingProxyType({})
) -> Config:
    """The mapping for layers of one kind (``"sliding_attention"``); an older ``rope_scaling`` is for one kind only.

    ``absent`` is what the family takes where a config has none.

    Source: transformers 5.24, Gemma3TextConfig.convert_rope_params_to_dict.
    """
    own = config.child("rope_parameters", {}).child(kind, absent)
    return own if own or not scaled else config.child("rope_scaling", {})


def rope_values(config: Config) -> Config:
    """The mapping that counts: ``rope_scaling`` where it is given, as in the reference, else ``rope_parameters``."""
    old, new = config.child("rope_scaling", {}), config.child("rope_parameters", {})
    for key in set(old) & set(new):
        if old[key] != new[key]:
            raise refused(
                config,
                f"'rope_scaling' says {key!r} is {old[key]!r}, 'rope_parameters' says {new[key]!r}: keep one of them",
            )
    return old or new


def scaling(kind: str, config: Config, rope: Config, n_ctx: int, n_dims: int) -> Scaling:
    """The scaling called ``kind``."""
    original = config.size("original_max_position_embeddings", default=n_ctx)
    if kind in ("yarn", "longrope", "llama3"):  # the outer number wins
        inner = rope.size("original_max_position_embeddings", default=n_ctx)
        original = config.size("original_max_position_embeddings", default=inner)
    if kind == "default":
        return Unscaled()
    if kind == "yarn":
        return yarn(rope, n_ctx, original)
    if kind == "longrope":
        return longrope(config, rope, n_ctx, original, n_dims)
    factor = rope.number("factor", at_least=POSITIVE)
    if kind == "linear":
        return Linear(factor=factor)
    if kind == "dynamic":
        return Dynamic(factor=factor, original=n_ctx)
    low, high = rope.number("low_freq_factor", at_least=POSITIVE), rope.number("high_freq_factor", at_least=POSITIVE)
    if low >= high:
        raise refused(config, f"'low_freq_factor' is {low!r}, it must be below 'high_freq_factor', which is {high!r}")
    return Llama3(factor=factor, low=low, high=high, original=original)


def yarn(rope: Config, n_ctx: int, original: int) -> Yarn:
    """YaRN, with the factor on cosine and sine that its paper suggests unless one is given."""
    factor = rope.number("factor", default=n_ctx / original, at_least=POSITIVE)
    mscale, mscale_all = rope.number("mscale", default=0.0), rope.number("mscale_all_dim", default=0.0)
    suggested = (
        magnitude(factor, mscale) / magnitude(factor, mscale_all) if mscale and mscale_all else magnitude(factor)
    )
    return Yarn(
        attention_factor=rope.number("attention_factor", default=suggested, at_least=0.0),
        factor=factor,
        original=original,
        beta_fast=rope.number("beta_fast", default=32.0) or 32.0,
        beta_slow=rope.number("beta_slow", default=1.0) or 1.0,
        truncate=rope.flag("truncate", default=True),
    )


def magnitude(factor: float, strength: float = 1.0) -> float:
    """YaRN's factor on the attention logits' root. Source: Peng et al. 2023, arXiv:2309.00071, equation 22."""
    return 0.1 * strength * math.log(factor) + 1.0 if factor > 1.0 else 1.0


def longrope(config: Config, rope: Config, n_ctx: int, original: int, n_dims: int) -> LongRope:
    """LongRoPE, with the factor on cosine and sine that its paper suggests unless one is given."""
    factor = rope.number("factor", default=n_ctx / original, at_least=POSITIVE)
    suggested = 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(original))
    divisors = {}
    for key in ("short_factor", "long_factor"):
        values = rope[key]
        if not isinstance(values, list) or len(values) != n_dims // 2 or not all(is_positive(v) for v in values):
            raise refused(config, f"{key!r} must be a list of {n_dims // 2} positive numbers, is {values!r}")
        divisors[key] = tuple(float(value) for value in values)
    return LongRope(
        attention_factor=rope.number("attention_factor", default=suggested, at_least=0.0),
        short=divisors["short_factor"],
        long=divisors["long_factor"],
        original=original,
    )


def is_positive(value: object) -> bool:
    """Whether this is a number above zero."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def refused(config: Config, sentence: str) -> BadConfig:
    """The error that names the file."""
    return BadConfig(f"{config.where}: {sentence}.", path=config.where)
