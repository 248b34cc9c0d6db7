"""The sites of recurrent mixers: name, dims and meaning, the same in every version."""

from __future__ import annotations

from collections.abc import Mapping

from mi_core.protocols import Site

__all__ = ["RECURRENT", "SHIFT", "STATE", "recurrent_site"]

STATE, SHIFT = "mixer.hook_state", "mixer.hook_shift"

HEADS = ("batch", "pos", "head", "d_head")
STREAM = ("batch", "pos", "d_model")

RECURRENT: Mapping[str, tuple[tuple[str, ...], str]] = {
    "mixer.hook_in": (STREAM, "what the mixer reads: after gain and bias of its norm"),
    SHIFT: (STREAM, "what a position leaves for the next one's mixer; a write acts from there on"),
    "mixer.hook_r": (HEADS, "receptance: what the state is read with"),
    "mixer.hook_log_decay": (HEADS, "log of what the state is multiplied by: float32, at most 0"),
    "mixer.hook_a": (HEADS, "how much of what lies along the removal key is removed (in-context learning rate)"),
    "mixer.hook_v_mix": (HEADS, "the share of the first layer's value in the value"),
    "mixer.hook_dt": (
        ("batch", "pos", "head"),
        "the step size: how long the token acts on the state; it scales decay and write",
    ),
    "mixer.hook_beta": (
        ("batch", "pos", "head"),
        "how much of what the token writes is written, and of what lies along its key removed (delta rule)",
    ),
    "mixer.hook_kk": (HEADS, "the removal key, of length one"),
    "mixer.hook_k": (HEADS, "keys as they are written"),
    "mixer.hook_v": (HEADS, "values as they are written, after mixing"),
    "mixer.hook_g": (HEADS, "the output gate, after its activation"),
    "mixer.hook_write_gate": (
        ("batch", "pos", "head"),
        "ones: multiplies what the token writes to the state; zero removes the token from the future",
    ),
    STATE: (
        ("batch", "pos", "head", "d_key", "d_value"),
        "the state after the position; a write acts from the next position on",
    ),
    "mixer.hook_effective_attn": (
        ("batch", "head", "query_pos", "key_pos"),
        "signed weights with which values are read: times the values it is hook_wkv, but for an initial state",
    ),
    "mixer.hook_wkv": (HEADS, "what the recurrence returns, before norm, bonus and gate"),
    "mixer.hook_bonus": (HEADS, "what the token's own value adds behind the norm"),
    "mixer.hook_z": (HEADS, "exactly what W_O multiplies"),
    "mixer.hook_out": (STREAM, "the mixer's own output"),
    "mixer.hook_channel_shift": (
        STREAM,
        "what a position leaves for the next one's channel part; a write acts from there on",
    ),
    "mlp.hook_r": (STREAM, "the gate that multiplies mlp.hook_out, after its activation"),
}
"""In firing order."""

ALSO: Mapping[str, tuple[str, ...]] = {"mixer.hook_log_decay": ("mixer.hook_decay",)}
"""candle-mi's names, where they differ. Its decay of version 7 is the logarithm too, that of 6 its exponential."""
ON_DEMAND = ("mixer.hook_state", "mixer.hook_effective_attn")
BY_HEAD: Mapping[str, tuple[str, ...]] = {
    SHIFT: ("batch", "pos", "lag", "d_conv"),
    **dict.fromkeys(("mixer.hook_r", "mixer.hook_k"), ("batch", "pos", "head", "d_key")),
    **dict.fromkeys(
        ("mixer.hook_v", "mixer.hook_g", "mixer.hook_wkv", "mixer.hook_bonus", "mixer.hook_z"),
        ("batch", "pos", "head", "d_value"),
    ),
    "mixer.hook_log_decay": ("batch", "pos", "head"),
}
"""Keys and values of their own widths, one decay for a head, a convolution in place of the shift."""
OTHER_DIMS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # one weight for each channel, and no matrix: numerator, denominator, scale
    "channels": {
        "mixer.hook_state": ("batch", "pos", "head", "part", "d_head"),
        "mixer.hook_effective_attn": ("batch", "d_head", "query_pos", "key_pos"),
    },
    "heads": {},
    "delta": BY_HEAD,
    "ssm": BY_HEAD,
    # every number of a state has its own decay
    "selective": {**BY_HEAD, "mixer.hook_log_decay": ("batch", "pos", "head", "d_key")},
}
CONVOLVED = "what positions leave for the next ones' convolution, the oldest first; a write acts from there on"
STATE_SPACE: Mapping[str, str] = {
    SHIFT: CONVOLVED,
    "mixer.hook_r": "C: what the state is read with",
    "mixer.hook_k": "B times the step size: keys as they are written",
    "mixer.hook_v": "values as they are written: what the convolution gives",
    "mixer.hook_bonus": "what the token's own value adds: D times it",
}
OTHER_MEANINGS: Mapping[str, Mapping[str, str]] = {
    "delta": {SHIFT: CONVOLVED},
    "ssm": STATE_SPACE,
    "selective": STATE_SPACE,
}


def recurrent_site(name: str, kind: str, sizes: Mapping[str, int], replace_only: str = "") -> Site:
    """The site ``name``, of a ``kind`` of mixer: ``"heads"``, ``"channels"`` (each a recurrence), ``"delta"`` ..."""
    dims, meaning = RECURRENT[name]
    dims, meaning = OTHER_DIMS[kind].get(name, dims), OTHER_MEANINGS.get(kind, {}).get(name, meaning)
    register = name == SHIFT and "lag" in dims
    return Site(
        name=name,
        dims=dims,
        sizes={dim: size for dim, size in sizes.items() if dim in dims},
        meaning=meaning,
        replace_only=replace_only,
        on_demand=name in ON_DEMAND or register,
        # edges can be cut there; nothing arrives closed
        keeps_masked=name == "mixer.hook_effective_attn",
        from_start=name == "mixer.hook_effective_attn",
        carries=name == STATE or register,
        also=ALSO.get(name, ()),
    )
