"""Configs that the reference cannot run, or computes in a way that is not computed here, are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from mi_core import plugins
from mi_core.config import Config
from mi_core.errors import BadConfig


def example(family: str) -> dict[str, Any]:
    return dict(plugins.plugin("mi_core.families", family).call("mi_family_examples")[0])


def blueprint(family: str, **changes: Any) -> Any:
    config = Config({**example(family), **changes})
    return plugins.plugin("mi_core.families", family).call("mi_family", config=config, tensors=None)


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("falcon", {"new_decoder_architecture": True, "parallel_attn": False}, "new_decoder_architecture"),
        ("falcon", {"num_ln_in_parallel_attn": 2, "new_decoder_architecture": False}, "num_ln_in_parallel_attn"),
        ("codegen", {"n_head": 2}, "'n_head' is 2, it must divide by 4"),
        ("codegen", {"rotary_dim": 3}, "rotary_dim"),
        ("xglm", {"attention_heads": 5}, "attention_heads"),
        ("internlm3", {"attention_bias": True, "mlp_bias": False}, "'qkv_bias' and 'bias' differ"),
        ("iquestcoder", {"clip_qkv": 8.0}, "clip_qkv"),
        ("iquestcoder", {"use_sliding_window": True}, "use_sliding_window"),
        ("hunyuan_v1_dense", {"rope_parameters": {"rope_type": "dynamic", "alpha": 0.0, "factor": 1.0}}, "alpha"),
        ("olmo", {"clip_qkv": -1.0}, "clip_qkv"),
        ("granite_swa", {"layer_rope_theta": [1e4]}, "layer_rope_theta"),
        ("granite_swa", {"layer_rope_theta": [1e4, 0.5, 0]}, "layer_rope_theta"),
        ("kolibri1", {"sliding_window": None}, "sliding_window"),
        ("dbrx", {"n_heads": 5}, "n_heads"),
        ("gemma4_text", {"hidden_size_per_layer_input": 8}, "only the dense decoder is computed"),
        ("gemma4_text", {"hidden_size_per_layer_input": None, "enable_moe_block": True}, "enable_moe_block"),
        ("gemma4_text", {"layer_types": 3 * ["sliding_attention"]}, "the last of 'layer_types'"),
        ("gemma4_text", {"per_layer_config": {"1": {"num_key_value_heads": 3}}}, "layer 1 has 3 key heads"),
        ("laguna", {"num_attention_heads_per_layer": [4, 3, 2]}, "num_attention_heads_per_layer"),
        ("laguna", {"moe_apply_router_weight_on_input": True}, "moe_apply_router_weight_on_input"),
        ("afmoe", {"score_func": "softmax"}, "score_func"),
        ("axk1", {"moe_layer_freq": 2}, "moe_layer_freq"),
        ("ministral", {"sliding_window": None}, "sliding_window"),
        ("openai-gpt", {"afn": "sine"}, "afn"),
        ("opt", {"word_embed_proj_dim": 0}, "word_embed_proj_dim"),
        ("mamba", {"hidden_act": "gelu"}, "hidden_act"),
        ("mamba", {"conv_kernel": 1}, "conv_kernel"),
        ("mamba2", {"num_heads": 5}, "'num_heads' is 5: heads of 16 numbers must fill the inner width of 64"),
        ("mamba2", {"n_groups": 3}, "a multiple of the 3 groups"),
        ("mamba2", {"time_step_limit": [0.9, 0.1]}, "time_step_limit"),
        ("mamba2", {"time_step_limit": [0.1]}, "time_step_limit"),
        ("granitemoehybrid", {"mamba_n_heads": 3}, "'mamba_n_heads' is 3"),
        ("granitemoehybrid", {"layer_types": ["mamba"]}, "layer_types"),
        ("granitemoehybrid", {"position_embedding_type": "alibi"}, "position_embedding_type"),
        ("qwen3_next", {"linear_num_value_heads": 3}, "must be a multiple of 'linear_num_key_heads'"),
        ("qwen3_next", {"layer_types": ["linear_attention", "sliding_attention"]}, "layer_types"),
        ("qwen3_5_text", {"hidden_act": "gelu"}, "hidden_act"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(family: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        blueprint(family, **changes)


def test_the_code_world_model_s_positions_are_llama_3_s_where_its_config_leaves_them_out() -> None:
    from transformers import CwmConfig

    config = {key: value for key, value in example("cwm").items() if not key.startswith("rope")}
    plain, given = blueprint("cwm"), blueprint("cwm", rope_parameters=dict(CwmConfig(**config).rope_parameters))
    assert plain.backend().spec == given.backend().spec
    assert type(plain.backend().spec.layers[0].mixer.positions.scaling).__name__ == "Llama3"


def test_the_last_layer_alone_has_a_bias_in_japanese_gpt_neox() -> None:
    weights = blueprint("gpt_neox_japanese").weights
    biases = {name: weight.names for name, weight in weights.items() if name.endswith("o_bias")}
    assert biases == {"layers.1.mixer.o_bias": ("gpt_neox_japanese.layers.1.attention.dense_bias",)}
