from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_core.config import Config
from mi_core.errors import BadConfig, UnusedConfig
from mi_core.inert import INERT, NEUTRAL, check_config_used

# Keys that change the numbers of some family: none may ever slip into the core's list.
NUMBERS = {
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
    "sliding_window",
    "layer_types",
    "attention_multiplier",
    "residual_multiplier",
    "embedding_multiplier",
    "logits_scaling",
    "final_logit_softcapping",
    "attn_logit_softcapping",
    "query_pre_attn_scalar",
    "partial_rotary_factor",
    "use_parallel_residual",
    "num_experts_per_tok",
    "norm_topk_prob",
    "routed_scaling_factor",
    "scale_attn_weights",
    "layer_norm_epsilon",
    "max_position_embeddings",
    "vocab_size",
    "original_max_position_embeddings",
}


def test_no_key_that_changes_numbers_is_called_inert() -> None:
    assert not NUMBERS & (INERT.keys() | NEUTRAL.keys())


@given(st.sampled_from(sorted(INERT)), st.none() | st.integers() | st.text())
def test_inert_keys_need_no_reader_whatever_they_say(key: str, value: Any) -> None:
    assert check_config_used(Config({key: value}), {}, family="toy") == ()


@pytest.mark.parametrize(("key", "value"), sorted(NEUTRAL.items()))
def test_a_neutral_key_is_inert_at_its_one_value_only(key: str, value: Any) -> None:
    check_config_used(Config({key: value}), {}, family="toy")
    with pytest.raises(UnusedConfig, match=key):
        check_config_used(Config({key: "else"}), {}, family="toy")


def test_a_key_that_nobody_read_is_listed_with_its_value_and_the_way_to_accept_it() -> None:
    config = Config({"known": 1, "surprise": 3.5, "rope": {"twist": 2}, "nothing": None}, where="config.json")
    assert config["known"] == 1
    config.child("rope")
    with pytest.raises(UnusedConfig, match=r"surprise = 3\.5, rope\.twist = 2") as caught:
        check_config_used(config, {}, family="toy")
    assert "ignore_config=['surprise', 'rope.twist']" in str(caught.value)
    assert caught.value.keys == {"surprise": 3.5, "rope.twist": 2}


def test_accepted_keys_are_reported_and_keys_of_the_family_are_not() -> None:
    config = Config({"known": 1, "surprise": 2, "noted": 3})
    assert config["known"] == 1
    ignored = check_config_used(config, {"noted": "a note"}, ignore=["surprise", "known"], family="toy")
    assert ignored == ("surprise",)


def test_accepting_a_key_that_is_not_there_is_a_typo() -> None:
    with pytest.raises(BadConfig, match="suprise"):
        check_config_used(Config({"surprise": 2}), {}, ignore=["suprise"], family="toy")
