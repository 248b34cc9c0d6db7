"""Models of TransformerLens' own making, from its configs and state dicts: ``model_type: hooked_transformer``.

Traits: what toy models need: attention alone if wanted, norms without gains or none at all, learned or rotary positions
or linear biases, local attention.
Source: TransformerLens 3.9, HookedTransformerConfig and HookedTransformer; its state dict as safetensors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.hookspecs import hookimpl
from mi_decoder import MLP, Alibi, Attention, AttentionLayer, Decoder, LayerNorm, LearnedPositions, RMSNorm, Rotary
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.fused import transposed
from mi_decoder.gains import NoGain, WideGain
from mi_decoder.layers import Layer, ParallelLayer
from mi_decoder.parts import LayerLike, Norm
from mi_decoder.translation import Source, blueprint, initialise, only

__all__ = ["mi_family", "mi_family_examples"]

FUNCTIONS = ("relu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "silu", "relu2")
POSITIONS = ("standard", "rotary", "alibi")
NORMS: Mapping[str, Callable[[float], Norm]] = {
    "LN": lambda eps: LayerNorm(eps),
    "LNPre": lambda eps: LayerNorm(eps, gain=NoGain(), bias=False),
    "RMS": lambda eps: RMSNorm(eps, gain=WideGain()),
    "RMSPre": lambda eps: RMSNorm(eps, gain=NoGain()),
}
OFF = -1.0
"""What stands for "not set" in numbers."""
NOT_COMPUTED: Mapping[str, Any] = {
    "attention_dir": "causal",
    "init_mode": "gpt2",
    "rotary_scaling_factor": 1.0,
    "gated_mlp": False,
    "post_embedding_ln": False,
    "tie_word_embeddings": False,
    "load_in_4bit": False,
    "use_qk_norm": False,
    "use_attention_sinks": False,
    "use_normalization_before_and_after": False,
    "use_NTK_by_parts_rope": False,
    "use_yarn_rope": False,
    "use_dynamic_ntk_rope": False,
    "use_logn_attn": False,
}
"""Keys that change the numbers, with the one value that is computed."""
INERT: Mapping[str, str] = {
    key: reason
    for reason, keys in {
        "which points there are; here all, on demand": "use_attn_result use_split_qkv_input use_hook_mlp_in "
        "use_attn_in use_hook_tokens ungroup_grouped_query_attention",
        "how the model was made": "seed init_weights device n_devices n_params",
        "where the model came from": "model_name original_architecture from_checkpoint checkpoint_index "
        "checkpoint_label_type checkpoint_value trust_remote_code",
        "how texts are read": "tokenizer_name default_prepend_bos tokenizer_prepends_bos",
        "not read by HookedTransformer": "uses_rms_norm layer_norm_folding norm_topk_prob",
        "of a rotary scaling that is off": "NTK_by_parts_low_freq_factor NTK_by_parts_high_freq_factor "
        "NTK_by_parts_factor NTK_original_ctx_len yarn_factor yarn_attention_factor yarn_beta_fast yarn_beta_slow "
        "yarn_original_max_position_embeddings yarn_truncate yarn_global_attn_only",
    }.items()
    for key in keys.split()
}
DROPPED = {
    "blocks.*.attn.mask": "the causal mask",
    "blocks.*.attn.IGNORE": "what masked scores are",
    "blocks.*.attn.rotary_*": "rotary tables are computed from the config",
}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder as the config describes it, whose matrices lie as TransformerLens lays them."""
    for key, value in NOT_COMPUTED.items():
        only(config, key, value)
    d_model, d_vocab, n_ctx = config.size("d_model"), config.size("d_vocab"), config.size("n_ctx")
    if config.get("d_vocab_out") not in (None, -1, d_vocab):
        raise BadConfig(
            f"{config.where}: 'd_vocab_out' is {config['d_vocab_out']!r}; there are logits of as many tokens as can be "
            f"read, {d_vocab}. Leave it out, and look at some of them.",
            path=config.where,
            key="d_vocab_out",
        )
    heads = sizes_of_heads(config, d_model)
    norm, final = norms(config)
    positions = config.choice("positional_embedding_type", POSITIONS, default="standard")
    layers = tuple(layer(config, index, heads, norm, d_model) for index in range(config.size("n_layers")))
    cap = config.number("output_logits_soft_cap", default=OFF)
    model = Decoder(
        d_vocab,
        d_model,
        layers,
        final,
        n_ctx,
        positions=LearnedPositions(n_ctx) if positions == "standard" else None,
        unembed_bias=True,
        logit_softcap=cap if cap > 0 else None,
    )
    dropped = DROPPED if positions == "standard" else {**DROPPED, "pos_embed.W_pos": "not read with these positions"}
    spread = config.number("initializer_range", default=OFF)
    found = blueprint(model, tensors, tied=False, names=names(heads), prefix="", dropped=dropped, inert=INERT)
    std = spread if spread >= 0 else 0.8 * d_model**-0.5
    return Blueprint(**{**vars(found), "initialise": partial(initialise, std=std)})


def sizes_of_heads(config: Config, d_model: int) -> tuple[int, int | None, int]:
    """Query heads, key heads (None where every query head has its own), and their width."""
    n_heads = config.size("n_heads", default=None, at_least=-1)
    d_head = config.size("d_head", default=None)
    if d_head is None and n_heads in (None, -1, 0):
        raise BadConfig(f"{config.where}: give 'd_head' or 'n_heads'.", path=config.where)
    n_heads = d_model // d_head if n_heads in (None, -1, 0) else n_heads
    return n_heads, config.size("n_key_value_heads", default=None), d_head or d_model // n_heads


def norms(config: Config) -> tuple[Norm | None, Norm | None]:
    """The norm of layers, and the final one, which may have no mean to take away."""
    eps, rms = config.number("eps", default=1e-5, at_least=0.0), config.flag("final_rms", default=False)
    kind = config.get("normalization_type", "LN")
    if kind is None:
        return None, None
    kind = config.choice("normalization_type", NORMS, default="LN")
    final = kind.replace("LN", "RMS") if rms else kind
    return NORMS[kind](eps), NORMS[final](eps)


def layer(config: Config, index: int, heads: tuple[int, int | None, int], norm: Norm | None, d_model: int) -> LayerLike:
    """One layer: attention alone, or with an MLP behind it or beside it."""
    mixer = attention(config, index, heads)
    attn_only, beside = config.flag("attn_only", default=False), config.flag("parallel_attn_mlp", default=False)
    d_mlp = config.size("d_mlp", default=4 * d_model)
    activation = config.choice("act_fn", FUNCTIONS, default="relu")
    if attn_only:
        return AttentionLayer(mixer, ln1=norm)
    mlp = MLP(d_mlp, ACTIVATIONS[activation])
    return ParallelLayer(mixer, mlp, ln1=norm, ln2=norm) if beside else Layer(mixer, mlp, ln1=norm, ln2=norm)


def attention(config: Config, index: int, heads: tuple[int, int | None, int]) -> Attention:
    """The attention of one layer. Source: TransformerLens 3.9, AbstractAttention."""
    n_heads, n_kv_heads, d_head = heads
    divisor = config.number("attn_scale", default=OFF)
    divisor = d_head**0.5 if divisor == OFF else divisor
    divisor = divisor if config.flag("use_attn_scale", default=True) else 1.0
    divisor *= index + 1 if config.flag("scale_attn_by_inverse_layer_idx", default=False) else 1
    cap, clip = config.number("attn_scores_soft_cap", default=OFF), config.number("clip_qkv", default=None)
    local = config.flag("use_local_attn", default=False) and config["attn_types"][index] == "local"
    window = config.size("window_size", default=None)
    return Attention(
        n_heads,
        n_kv_heads or n_heads,
        d_head,
        places(config, n_heads, d_head),
        bias=True,
        out_bias=True,
        scale=1.0 / divisor,
        window=window if local else None,
        softcap=cap if cap > 0 else None,
        clip=clip,
    )


def places(config: Config, n_heads: int, d_head: int) -> Rotary | Alibi | None:
    """How attention knows where tokens stand. Source: TransformerLens 3.9, create_alibi_multipliers."""
    kind = config.choice("positional_embedding_type", POSITIONS, default="standard")
    turned = config.size("rotary_dim", default=d_head)
    theta, adjacent = config.number("rotary_base", default=10000.0), config.flag("rotary_adjacent_pairs", default=False)
    if kind == "rotary":
        return Rotary(turned, theta, interleaved=adjacent)
    return Alibi(tuple(2.0 ** (-8.0 * (i + 1) / n_heads) for i in range(n_heads)), "query") if kind == "alibi" else None


def names(heads: tuple[int, int | None, int]) -> Mapping[str, Source]:
    """Our parameters -> its tensors: matrices multiply from the right, heads lie in front."""
    n_heads, n_kv_heads, _ = heads
    layer, shared = "blocks.*", "" if n_kv_heads is None else "_"
    found: dict[str, Source] = {
        "embed_weight": "embed.W_E",
        "pos_embed_weight": "pos_embed.W_pos",
        "unembed_weight": ("unembed.W_U", transposed),
        "unembed_bias": "unembed.b_U",
        "layers.*.mixer.o_weight": (f"{layer}.attn.W_O", of_output(n_heads)),
        "layers.*.mixer.o_bias": f"{layer}.attn.b_O",
    }
    for part, mark, count in (("q", "", n_heads), ("k", shared, n_kv_heads), ("v", shared, n_kv_heads)):
        for kind, letter in (("weight", "W"), ("bias", "b")):
            name = f"{layer}.attn.{mark}{letter}_{part.upper()}"
            found[f"layers.*.mixer.{part}_{kind}"] = name, of_heads(count or n_heads)
    for part in ("in", "out"):
        found[f"layers.*.channel.{part}_weight"] = f"{layer}.mlp.W_{part}", transposed
        found[f"layers.*.channel.{part}_bias"] = f"{layer}.mlp.b_{part}"
    for ours, theirs in (("layers.*.ln1", f"{layer}.ln1"), ("layers.*.ln2", f"{layer}.ln2"), ("ln_final", "ln_final")):
        found |= {f"{ours}.weight": f"{theirs}.w", f"{ours}.bias": f"{theirs}.b"}
    return found


def of_heads(count: int) -> Callable[[Tensor], Tensor]:
    """``[head d_model d_head]`` as ``[head * d_head, d_model]``; a bias ``[head d_head]`` as one row."""

    def view(tensor: Tensor) -> Tensor:
        heads = tensor.view(count, *tensor.shape[1:])
        return (heads.mT if heads.ndim == 3 else heads).flatten(0, 1)

    return view


def of_output(count: int) -> Callable[[Tensor], Tensor]:
    """``[head d_head d_model]`` as ``[d_model, head * d_head]``."""
    return lambda tensor: tensor.view(count, *tensor.shape[1:]).flatten(0, 1).T


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: attention alone; everything on; norms without gains, parts in parallel; linear biases."""
    tiny = {"model_type": "hooked_transformer", "n_layers": 2, "d_model": 32, "d_head": 8, "n_heads": 4}
    tiny |= {"d_vocab": 61, "n_ctx": 64}
    return (
        tiny | {"attn_only": True},
        tiny
        | {"d_mlp": 48, "act_fn": "gelu_new", "normalization_type": "RMS", "positional_embedding_type": "rotary"}
        | {"rotary_dim": 6, "rotary_base": 500.0, "n_key_value_heads": 2, "attn_scores_soft_cap": 20.0}
        | {"use_local_attn": True, "window_size": 5, "attn_types": ["global", "local"], "output_logits_soft_cap": 9.0},
        tiny
        | {"normalization_type": "LNPre", "final_rms": True, "parallel_attn_mlp": True, "rotary_adjacent_pairs": True}
        | {"positional_embedding_type": "rotary", "scale_attn_by_inverse_layer_idx": True, "attn_scale": 2.0},
        tiny | {"attn_only": True, "positional_embedding_type": "alibi"},
    )
