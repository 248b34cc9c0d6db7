"""Short names of activations, as TransformerLens spells them out."""

from __future__ import annotations

import re

from mi_core.errors import UnknownPoint

__all__ = ["full_name", "get_act_name"]

SHORT = re.compile(r"([a-z]+)(\d+)([a-z]?.*)")
PLACES = {"a": "attn", "m": "mlp", "b": "", "block": "", "blocks": "", "attention": "attn"}
ALIASES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "key": "k",
    "query": "q",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_mid": "mid",
    "mlp_post": "post",
}
IN_ATTENTION = ("k", "v", "q", "z", "rot_k", "rot_q", "result", "pattern", "attn_scores")
IN_MLP = ("pre", "post", "mid", "pre_linear")


def get_act_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """Which activation does a short name stand for?

    >>> get_act_name("k", 6, "a"), get_act_name("pre5"), get_act_name("scale4ln1")
    ('blocks.6.attn.hook_k', 'blocks.5.mlp.hook_pre', 'blocks.4.ln1.hook_scale')
    >>> get_act_name("embed"), get_act_name("normalized"), get_act_name("hook_embed")
    ('hook_embed', 'ln_final.hook_normalized', 'hook_embed')

    Source: TransformerLens 3.9, utilities get_act_name.
    """
    if ("." in name or name.startswith("hook_")) and layer is None and layer_type is None:
        return name
    short = SHORT.match(name)
    if short is not None:
        name, layer, layer_type = short[1], short[2], short[3]
    name = ALIASES.get(name, name)
    if name in IN_ATTENTION:
        layer_type = "attn"
    elif name in IN_MLP:
        layer_type = "mlp"
    place = PLACES.get(layer_type or "", layer_type or "")
    if name in ("scale", "normalized") and layer is None:
        place = "ln_final"
    return ".".join([*([] if layer is None else ["blocks", str(layer)]), *([place] if place else []), f"hook_{name}"])


def full_name(key: object, n_layers: int) -> str:
    """The activation that an index of a cache means: a name, a short name, or ``(name, layer, place)``.

    >>> full_name(("resid_post", -1), 4), full_name("pattern3", 4)
    ('blocks.3.hook_resid_post', 'blocks.3.attn.hook_pattern')

    Raises:
        UnknownPoint: the key is no name, or its layer does not exist.
    """
    if isinstance(key, str):
        return get_act_name(key)
    if not isinstance(key, tuple) or not 1 <= len(key) <= 3 or not isinstance(key[0], str):
        raise UnknownPoint(
            f"{key!r} names no activation: give a name, or (name, layer) or (name, layer, place).", key=key
        )
    layer = key[1] if len(key) > 1 else None
    if layer is None:
        return get_act_name(*key)
    if not isinstance(layer, int) or not -n_layers <= layer < n_layers:
        raise UnknownPoint(f"{key!r}: the model has the layers 0 to {n_layers - 1}; -1 is the last.", key=key)
    return get_act_name(key[0], layer % n_layers, *key[2:])
