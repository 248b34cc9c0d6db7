"""K-EXAONE, and everything else that ships as ``model_type: exaone_moe``.

Traits: LLaMA with norms of query and key heads; layers that have a window and positions, or neither; DeepSeek 3's
experts behind the first layers. Source: LG AI Research 2026, K-EXAONE; transformers 5.24, models/exaone_moe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import Attention, HeadNorm, Layer, RMSNorm
from mi_decoder.examples import TINY
from mi_decoder.moe_config import LEARNING_TO_ROUTE, dense_or_sparse, moe_names, sigmoid_experts, spare_layers
from mi_decoder.rope_config import rotary
from mi_decoder.translation import COMPUTED, NORMED_HEADS, blueprint, decoder, gated_mlp, heads, or_none
from mi_decoder.windows import layer_windows

NAMES = {
    **NORMED_HEADS,
    **moe_names(shared="shared_experts"),
    "layers.*.channel.selection_bias": "model.layers.*.mlp.e_score_correction_bias",
}
DROPPED = {**COMPUTED, "mtp.*": "predicts further tokens, for training"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose layers differ in window, positions and experts."""
    n_heads, n_kv_heads, d_head = heads(config, n_kv_heads=32)
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = rotary(config, d_head, n_ctx)
    window = config.size("sliding_window", default=or_none(config, "sliding_window", 4096))
    pattern = config.get("sliding_window_pattern", 4)
    period = pattern if isinstance(pattern, int) and pattern > 0 else len(pattern or "LLLG")  # a word in some files
    windows = layer_windows(config, window, lambda index: window is not None and (index + 1) % period != 0)
    norm = RMSNorm(config.number("rms_norm_eps", default=1e-5, at_least=0.0))
    sparse, dense, experts = dense_or_sparse(config), gated_mlp(config), sigmoid_experts(config, scale=2.5, n_shared=1)
    dropped = {**DROPPED, **spare_layers(config, "num_nextn_predict_layers")}

    def layer(index: int) -> Layer:
        seen = windows[index]
        place = positions if window is None or seen else None
        mixer = Attention(n_heads, n_kv_heads, d_head, place, window=seen, qk_norm=HeadNorm(norm))
        return Layer(mixer, experts if sparse[index] else dense, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    tied = config.flag("tie_word_embeddings", default=False)
    return blueprint(model, tensors, tied=tied, names=NAMES, dropped=dropped, inert=LEARNING_TO_ROUTE)


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: groups and short windows; every layer sparse, kinds by list, in the older spelling."""
    tiny = {"model_type": "exaone_moe", **TINY, "num_hidden_layers": 2, "num_experts": 8, "num_experts_per_tok": 3}
    tiny |= {"moe_intermediate_size": 20, "head_dim": 12}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3}
    return (
        tiny
        | {"sliding_window": 4, "sliding_window_pattern": 2, "n_group": 4, "topk_group": 2, "rope_parameters": linear},
        tiny
        | {
            "sliding_window": 3,
            "layer_types": ["full_attention", "sliding_attention"],
            "mlp_layer_types": ["sparse", "sparse"],
            "rope_theta": 1e3,
            "norm_topk_prob": False,
        }
        | {"num_shared_experts": 2, "rms_norm_eps": 1e-6},
    )
