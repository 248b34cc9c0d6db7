"""From a family's decoder and its checkpoint names to a blueprint."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

from torch import Generator, Tensor, nn

from mi_core.blueprint import Blueprint, Weight
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.protocols import Backend
from mi_decoder.decoder import Decoder

__all__ = ["LLAMA_NAMES", "Source", "blueprint", "heads", "initialise"]

Source = str | tuple[str, Callable[[Tensor], Tensor]]
"""A checkpoint module by name, or its name and the view of its tensors that is meant (a part of a fused matrix)."""

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

COMPUTED = {"*rotary_emb.inv_freq": "rotary frequencies are computed from the config"}


def heads(config: Config) -> tuple[int, int, int]:
    """How many query heads, how many key heads, and of which width?

    Raises:
        BadConfig: the numbers do not divide.

    Source: transformers 5.24, LlamaConfig.validate_architecture.
    """
    d_model, n_heads = config.size("hidden_size"), config.size("num_attention_heads")
    n_kv_heads = config.size("num_key_value_heads", default=n_heads)
    if d_model % n_heads or n_heads % n_kv_heads:
        raise BadConfig(
            f"{config.where}: 'num_attention_heads' is {n_heads!r}: it must divide 'hidden_size' ({d_model!r}) and "
            f"be a multiple of 'num_key_value_heads' ({n_kv_heads!r}).",
            path=config.where,
        )
    return n_heads, n_kv_heads, config.size("head_dim", default=d_model // n_heads)


def blueprint(
    model: Decoder,
    tensors: Collection[str] | None,
    *,
    tied: bool,
    names: Mapping[str, Source] = LLAMA_NAMES,
    prefix: str = "model.",
    dropped: Mapping[str, str] = COMPUTED,
    inert: Mapping[str, str] | None = None,
) -> Blueprint:
    """How does a checkpoint with these names fill this decoder?

    ``tied`` is what the config says. As in the reference, the file has the last word: both matrices present are both
    used, a lone unembedding serves as the embedding too. Checkpoints of the bare stack lack ``prefix``.

    Source: transformers 5.24, PreTrainedModel.tie_weights.
    """
    bare = tensors is not None and not any(name.startswith(prefix) for name in tensors)
    strip = prefix if bare else ""
    weights = {name: weight(name, names, strip) for name, _ in model.build().named_parameters()}
    tie: dict[str, str] = {}
    embed, unembed = weights["embed_weight"], weights["unembed_weight"]
    if tied and (tensors is None or unembed.names[0] not in tensors):
        del weights["unembed_weight"]
        tie = {"unembed_weight": "embed_weight"}
    elif tied and tensors is not None and embed.names[0] not in tensors:
        del weights["embed_weight"]
        tie = {"embed_weight": "unembed_weight"}
    return Blueprint(
        backend=model.build,
        weights=weights,
        dropped=dropped,
        inert=inert or {},
        tie=tie,
        initialise=initialise,
    )


def weight(parameter: str, names: Mapping[str, Source], strip: str) -> Weight:
    """Where a parameter comes from: ``layers.3.mixer.q_weight`` from ``model.layers.3.self_attn.q_proj.weight``."""
    module, kind = re.fullmatch(r"(.+)[._](weight|bias)", parameter).groups()  # type: ignore[union-attr]
    layer = re.match(r"layers\.(\d+)\.", module)
    source = names[module if layer is None else module.replace(layer[0], "layers.*.", 1)]
    name, view = (source, None) if isinstance(source, str) else source
    if layer is not None:
        name = name.replace("*", layer[1], 1)
    full = f"{name.removeprefix(strip)}.{kind}"
    return Weight.of(full) if view is None else Weight.of(full, view=view)


def initialise(backend: Backend, generator: Generator, std: float = 0.02) -> None:
    """Fills fresh parameters in place: matrices from a normal distribution, biases zero, gains one."""
    assert isinstance(backend, nn.Module)
    for name, parameter in backend.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 1:
            nn.init.ones_(parameter)
        else:
            nn.init.normal_(parameter, std=std, generator=generator)
