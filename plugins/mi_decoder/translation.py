"""From a family's decoder and its checkpoint names to a blueprint."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Generator, Tensor, nn

from mi_core.blueprint import Blueprint, Weight
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.fill import slots
from mi_core.protocols import Backend
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.decoder import Decoder
from mi_decoder.fused import EachExpert, View
from mi_decoder.mlp import MLP, GatedMLP
from mi_decoder.parts import LayerLike, Norm

__all__ = [
    "BEHIND_NAMES",
    "LLAMA_NAMES",
    "NORMED_HEADS",
    "SANDWICH_NAMES",
    "Source",
    "blueprint",
    "decoder",
    "fused_names",
    "gated_mlp",
    "heads",
    "initialise",
    "module_names",
    "only",
    "or_none",
    "plain_mlp",
    "renamed",
    "stacked",
]

Source = str | tuple[str | tuple[str, ...], Callable[..., Tensor] | EachExpert]
"""A checkpoint module by name; its name and the view of its tensors that is meant (a part of a fused matrix, or each
expert's part of a stack); or several names and what puts their tensors together."""

LLAMA_NAMES: Mapping[str, Source] = {
    "embed": "model.embed_tokens",
    "layers.*.ln1": "model.layers.*.input_layernorm",
    "layers.*.mixer.q": "model.layers.*.self_attn.q_proj",
    "layers.*.mixer.k": "model.layers.*.self_attn.k_proj",
    "layers.*.mixer.v": "model.layers.*.self_attn.v_proj",
    "layers.*.mixer.o": "model.layers.*.self_attn.o_proj",
    "layers.*.ln2": "model.layers.*.post_attention_layernorm",
    "layers.*.channel.gate": "model.layers.*.mlp.gate_proj",
    "layers.*.channel.in": "model.layers.*.mlp.up_proj",
    "layers.*.channel.out": "model.layers.*.mlp.down_proj",
    "ln_final": "model.norm",
    "unembed": "lm_head",
}
"""Our modules -> the checkpoint's, in the spelling that most families share. Source: transformers 5.24, llama."""

NORMED_HEADS: Mapping[str, Source] = {
    **LLAMA_NAMES,
    "layers.*.mixer.q_norm": "model.layers.*.self_attn.q_norm",
    "layers.*.mixer.k_norm": "model.layers.*.self_attn.k_norm",
}
"""With norms of queries and keys. Source: transformers 5.24, qwen3."""

SANDWICH_NAMES: Mapping[str, Source] = {
    **NORMED_HEADS,
    "layers.*.ln1_post": "model.layers.*.post_attention_layernorm",
    "layers.*.ln2": "model.layers.*.pre_feedforward_layernorm",
    "layers.*.ln2_post": "model.layers.*.post_feedforward_layernorm",
}
"""With norms before and behind both parts. Source: transformers 5.24, gemma2 and gemma3."""

BEHIND_NAMES: Mapping[str, Source] = {
    **NORMED_HEADS,
    "layers.*.ln1_post": "model.layers.*.post_attention_layernorm",
    "layers.*.ln2_post": "model.layers.*.post_feedforward_layernorm",
}
"""With norms behind both parts and none before them. Source: transformers 5.24, olmo2."""

COMPUTED = {"*rotary_emb.inv_freq": "rotary frequencies are computed from the config"}


def heads(config: Config, *, n_kv_heads: int | None = None, d_head: int | None = None) -> tuple[int, int, int]:
    """How many query heads, how many key heads, and of which width?

    ``n_kv_heads`` and ``d_head`` are the family's defaults, where a key is absent; without one, as many key heads as
    query heads, which share the stream's width.

    Raises:
        BadConfig: the numbers do not divide.

    Source: transformers 5.24, LlamaConfig.validate_architecture.
    """
    d_model, n_heads = config.size("hidden_size"), config.size("num_attention_heads")
    n_kv_heads = config.size(
        "num_key_value_heads", default=or_none(config, "num_key_value_heads", n_kv_heads) or n_heads
    )
    d_head = config.size("head_dim", default=or_none(config, "head_dim", d_head))
    if n_heads % n_kv_heads or (d_head is None and d_model % n_heads):
        raise BadConfig(
            f"{config.where}: 'num_attention_heads' is {n_heads!r}: it must divide 'hidden_size' ({d_model!r}) and "
            f"be a multiple of 'num_key_value_heads' ({n_kv_heads!r}).",
            path=config.where,
        )
    return n_heads, n_kv_heads, d_head or d_model // n_heads


def or_none(config: Config, key: str, default: Any) -> Any:
    """What an absent key means, where null means none: the default for `Config`'s readers."""
    return None if key in config else default


def gated_mlp(
    config: Config,
    *,
    bias: bool = False,
    key: str = "hidden_act",
    activation: str = "silu",
    meaning: Mapping[str, str] | None = None,
) -> GatedMLP:
    """The gated MLP of a config; ``key`` names its activation, which is ``activation`` where the key is absent.

    ``meaning`` corrects names that a family's files use for other functions.
    """
    chosen = config.choice(key, ACTIVATIONS, default=activation)
    return GatedMLP(config.size("intermediate_size"), ACTIVATIONS[(meaning or {}).get(chosen, chosen)], bias=bias)


def plain_mlp(
    config: Config,
    *,
    bias: bool = True,
    key: str = "hidden_act",
    activation: str = "gelu",
    size: str = "intermediate_size",
) -> MLP:
    """The MLP of a config without a gate; ``key`` and ``size`` name its activation and its width."""
    chosen = config.choice(key, ACTIVATIONS, default=activation)
    return MLP(config.size(size), ACTIVATIONS[chosen], bias=bias)


def decoder(
    config: Config,
    layer: Callable[[int], LayerLike] | LayerLike,
    ln_final: Norm | None,
    n_ctx: int | None,
    **values: Any,
) -> Decoder:
    """The decoder of a config that spells its sizes as most do: the same layer throughout, or one for each index."""
    n_layers = config.size("num_hidden_layers")
    layers = (layer,) * n_layers if isinstance(layer, LayerLike) else tuple(layer(index) for index in range(n_layers))
    return Decoder(config.size("vocab_size"), config.size("hidden_size"), layers, ln_final, n_ctx, **values)


def only(config: Config, key: str, wanted: Any) -> None:
    """Refuses every value of a key but ``wanted``, null and absence, which mean the same.

    Raises:
        BadConfig: another value, which the engine does not compute.
    """
    seen = config.get(key)
    if seen is not None and seen != wanted:
        raise BadConfig(
            f"{config.where}: {key!r} is {seen!r}; only {wanted!r} is computed, so this checkpoint cannot be run.",
            path=config.where,
            key=key,
            value=seen,
        )


def module_names(layer: str, inner: Mapping[str, str]) -> dict[str, Source]:
    """Our modules inside a layer -> the checkpoint's, whose layers are called ``layer`` (``"model.layers.*"``)."""
    return {f"layers.*.{ours}": f"{layer}.{theirs}" for ours, theirs in inner.items()}


def fused_names(
    part: str,
    fused: str,
    modules: Sequence[str],
    views: Sequence[View],
    *,
    names: Mapping[str, Source] = LLAMA_NAMES,
    layer: str = "model.layers.*",
) -> dict[str, Source]:
    """``names``, with several modules of one part taken from views of one checkpoint module."""
    found = {
        f"layers.*.{part}.{module}": (f"{layer}.{fused}", view) for module, view in zip(modules, views, strict=True)
    }
    return {**names, **found}


def renamed(names: Mapping[str, Source], starts: Mapping[str, str]) -> dict[str, Source]:
    """``names``, whose checkpoint modules start differently: each that starts with a key, with its value instead."""

    def other(name: Source) -> Source:
        if not isinstance(name, str):
            raise TypeError(f"only whole modules are renamed, not {name!r}")
        old = next((start for start in starts if name.startswith(start)), "")
        return starts.get(old, "") + name.removeprefix(old)

    return {ours: other(theirs) for ours, theirs in names.items()}


def stacked(stem: str, count: int) -> Source:
    """Rows that a checkpoint keeps as modules ``stem.0``, ``stem.1``, ... Source: transformers 5.24, stablelm."""
    return tuple(f"{stem}.{index}" for index in range(count)), lambda *rows: torch.stack(rows)


def blueprint(
    model: Decoder,
    tensors: Collection[str] | None,
    *,
    tied: bool,
    names: Mapping[str, Source] = LLAMA_NAMES,
    prefix: str = "model.",
    dropped: Mapping[str, str] = COMPUTED,
    inert: Mapping[str, str] | None = None,
    wide: Sequence[str] = ("*.selection_bias",),
    same: Mapping[str, str] | None = None,
) -> Blueprint:
    """How does a checkpoint with these names fill this decoder?

    ``tied`` is what the config says. As in the reference, the file has the last word: both matrices present are both
    used, a lone unembedding serves as the embedding too. Checkpoints of the bare stack lack ``prefix``. Parameters
    that fit a pattern of ``wide`` stay float32 where the model's dtype is narrower. Those in ``same`` are others: keys
    that serve as values.

    Source: transformers 5.24, PreTrainedModel.tie_weights and _keep_in_fp32_modules_strict.
    """
    bare = tensors is not None and not any(name.startswith(prefix) for name in tensors)
    strip = prefix if bare else ""
    weights = {name: weight(name, names, strip) for name in slots(model.build())}
    for name in (name for name in weights if any(fnmatchcase(name, pattern) for pattern in wide)):
        weights[name] = replace(weights[name], wide=True)
    tie = dict(same or {})
    weights = {name: weight for name, weight in weights.items() if name not in tie}
    embed, unembed = weights["embed_weight"], weights["unembed_weight"]
    if tied and (tensors is None or unembed.names[0] not in tensors):
        del weights["unembed_weight"]
        tie["unembed_weight"] = "embed_weight"
    elif tied and tensors is not None and embed.names[0] not in tensors:
        del weights["embed_weight"]
        tie["embed_weight"] = "unembed_weight"
    return Blueprint(
        backend=model.build,
        weights=weights,
        dropped=dropped,
        inert=inert or {},
        tie=tie,
        initialise=initialise,
        spec=model,
    )


def weight(parameter: str, names: Mapping[str, Source], strip: str) -> Weight:
    """Where a parameter comes from: ``layers.3.mixer.q_weight`` from ``model.layers.3.self_attn.q_proj.weight``.

    A name that is given for the parameter itself (``layers.*.mixer.sinks_bias``) is that of the tensor.
    """
    numbers = re.findall(r"(?<=\.)\d+(?=\.)", parameter)
    pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", parameter)
    module, kind = re.fullmatch(r"(.+)[._](weight|bias)", pattern).groups()  # type: ignore[union-attr]
    source, suffix = (names[pattern], "") if pattern in names else (names[module], f".{kind}")
    found, view = (source, None) if isinstance(source, str) else source
    full = []
    for name in (found,) if isinstance(found, str) else found:
        for number in numbers:
            name = name.replace("*", number, 1)
        full.append(f"{name.removeprefix(strip)}{suffix}")
    if isinstance(view, EachExpert):
        view = view.of(int(numbers[-1]))
    return Weight.of(*full) if view is None else Weight.of(*full, view=view)


def initialise(backend: Backend, generator: Generator, std: float = 0.02) -> None:
    """Fills fresh parameters in place: matrices from a normal distribution, biases zero, gains one.

    A module with numbers of another kind has an ``initialise`` of its own.
    """
    assert isinstance(backend, nn.Module)
    for name, parameter in backend.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 1:
            nn.init.ones_(parameter)
        else:
            nn.init.normal_(parameter, std=std, generator=generator)
    for module in backend.modules():
        own = getattr(module, "initialise", None)
        if own is not None:
            with torch.no_grad():
                own()
