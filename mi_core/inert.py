"""Config keys that cannot change what a forward pass computes, so that nobody has to read them.

A key is used when the family reads it, when it stands here, when the family's blueprint names it inert with a reason,
or when its value is null. Everything else is an error: a key that nobody knows may well change the numbers.

Source: transformers 4.57 and 5.24, ``configuration_utils.PretrainedConfig`` and the model configs; configs on the Hub.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from mi_core.config import Config
from mi_core.errors import BadConfig, UnusedConfig

__all__ = ["INERT", "NEUTRAL", "check_config_used", "is_inert"]

INERT: Final[Mapping[str, str]] = {
    key: reason
    for reason, keys in {
        "a name or a version": "_name_or_path name_or_path architectures model_type transformers_version _commit_hash "
        "model_version task_specific_params finetuning_task problem_type base_model_name license",
        "where remote code lives, which is never run": "auto_map custom_pipelines",
        "the storage type, which load reads": "torch_dtype dtype",
        "token ids that only texts and generation need": "bos_token_id eos_token_id pad_token_id sep_token_id "
        "unk_token_id mask_token_id cls_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id "
        "bos_token eos_token pad_token unk_token tokenizer_class prefix suppress_tokens begin_suppress_tokens",
        "initialisation": "initializer_range initializer_factor init_std initializer_cutoff_factor rescale_every_init",
        "dropout, which is off": "attention_dropout hidden_dropout hidden_dropout_prob dropout dropout_rate attn_pdrop "
        "embd_pdrop resid_pdrop attention_probs_dropout_prob activation_dropout classifier_dropout embed_dropout "
        "summary_first_dropout layerdrop residual_dropout embedding_dropout resid_dropout ffn_dropout",
        "generation": "use_cache max_length min_length do_sample early_stopping num_beams num_beam_groups "
        "diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size "
        "encoder_no_repeat_ngram_size bad_words_ids num_return_sequences remove_invalid_values "
        "exponential_decay_length_penalty generation_config cache_implementation",
        "what the reference returns, or how it computes the same": "output_hidden_states output_attentions "
        "output_scores return_dict return_dict_in_generate torchscript use_return_dict output_past keys_to_ignore_at_"
        "inference chunk_size_feed_forward pretraining_tp _attn_implementation attn_implementation "
        "_attn_implementation_autoset _flash_attn_2_enabled use_flash_attention use_flash_attn gradient_checkpointing "
        "use_memory_efficient_attention",
        "heads for other tasks": "id2label label2id num_labels summary_type summary_use_proj summary_activation "
        "summary_proj_to_labels",
        "a loss for training": "router_aux_loss_coef aux_loss_alpha output_router_logits z_loss_coefficient "
        "ignore_index",
    }.items()
    for key in keys.split()
}
"""Key -> what it is about."""

NEUTRAL: Final[Mapping[str, Any]] = {
    "add_cross_attention": False,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "tf_legacy_loss": False,
    "tie_encoder_decoder": False,
    "use_bfloat16": False,
}
"""Keys that are inert at this one value."""


def check_config_used(
    config: Config, inert: Mapping[str, str], *, ignore: Collection[str] = (), family: str
) -> tuple[str, ...]:
    """Which of the keys to be ignored were really left unread; refuses every other key that nobody read.

    Raises:
        UnusedConfig: keys that may change the numbers; the message lists them with their values.
        BadConfig: ``ignore`` names a key that the config lacks.
    """
    unread = config.unread()
    for key in ignore:
        if key not in config and key not in unread:
            raise BadConfig(
                f"{config.where}: ignore_config names {key!r}, which the config does not have. "
                f"It has: {', '.join(sorted(config))}.",
                key=key,
                path=config.where,
            )
    left = {key: value for key, value in unread.items() if not is_inert(key, value, inert) and key not in ignore}
    if left:
        listed = ", ".join(f"{key} = {value!r}" for key, value in left.items())
        raise UnusedConfig(
            f"{config.where}: {len(left)} {'keys were' if len(left) > 1 else 'key was'} read by nobody and may change "
            f"the numbers: {listed}. The family {family!r} does not know {'them' if len(left) > 1 else 'it'}; if you "
            f"do and it does not matter, accept it with ignore_config={list(left)!r}.",
            keys=left,
            family=family,
            path=config.where,
        )
    return tuple(key for key in ignore if key in unread)


def is_inert(key: str, value: Any, inert: Mapping[str, str]) -> bool:
    """Whether a key, given with its path, cannot change the numbers at this value."""
    name = key.rpartition(".")[2]
    return key in inert or name in INERT or (name in NEUTRAL and value == NEUTRAL[name])
