"""SAELens' cfg.json of all versions, as one of version 6: what was renamed, moved or left unsaid.

Source: SAELens 6.54, pretrained_sae_loaders.py, ``handle_pre_6_0_config``; SAELens 2 to 5, config.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mi_core.config import Config
from mi_core.errors import BadConfig

__all__ = ["INERT", "migrated"]

RENAMED: Final = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}

METADATA: Final = frozenset(
    """
    model_name hook_name model_class_name hook_head_index model_from_pretrained_kwargs prepend_bos
    exclude_special_tokens neuronpedia_id context_size seqpos_slice dataset_path sae_lens_version
    sae_lens_training_version hook_name_out hook_head_index_out hf_hook_name hf_hook_name_out hook_layer
    training_architecture training_architecture_details
    """.split()  # noqa: SIM905  # twenty lines otherwise
)

HOUSEKEEPING: Final = """
    device dtype model_kwargs dataset_trust_remote_code hook_layer hook_point_layer hook_layer_out hook_eval
    llm_device act_store_device autocast autocast_lm compile_llm compile_sae llm_compilation_mode
    sae_compilation_mode seed verbose name run_name
"""
"""What the checkpoint lay in and ran on."""
TOKENS: Final = """
    streaming is_dataset_tokenized use_chat_formatting use_cached_activations cached_activations_path
    n_batches_in_buffer store_batch_size_prompts store_batch_size training_tokens total_training_tokens
    train_batch_size train_batch_size_tokens tokens_per_buffer disable_concat_sequences
    sequence_separator_token activations_mixing_fraction prefetch_llm_batches normalize_activations_estimate
    n_batches_for_norm_estimate from_pretrained_path tokens_so_far
"""
"""Where tokens came from."""
TRAINING: Final = """
    adam_beta1 adam_beta2 lr lr_end lr_scheduler_name lr_warm_up_steps lr_decay_steps n_restart_cycles
    l1_coefficient l1_warm_up_steps l1_loss_wd_norm lp_norm mse_loss_normalization noise_std l0_coefficient
    l0_warm_up_steps l0_lambda target_l0 pre_act_loss_coefficient jumprelu_init_threshold jumprelu_bandwidth
    jumprelu_sparsity_loss_mode jumprelu_tanh_scale jumprelu_ste_to_input decoder_init_norm
    decoder_heuristic_init decoder_heuristic_init_norm decoder_orthogonal_init
    init_encoder_as_decoder_transpose normalize_sae_decoder scale_sparsity_penalty_by_decoder_norm
    b_dec_init_method apply_b_dec_init expansion_factor finetuning_tokens finetuning_method use_ghost_grads
    ghost_grads feature_sampling_method feature_sampling_window feature_reinit_scale resample_batches
    dead_feature_window dead_feature_threshold dead_feature_estimation_method aux_loss_coefficient
    use_sparse_activations topk_threshold_lr matryoshka_widths use_matryoshka_aux_loss uses_scaling_factor
    training_architecture
"""
"""How it was trained."""
LOGGING: Final = """
    logger log_to_wandb log_activations_store_to_wandb log_optimizer_state_to_wandb log_weights_to_wandb
    wandb_project wandb_id wandb_entity wandb_log_frequency eval_every_n_wandb_logs n_eval_batches
    eval_batch_size_prompts n_eval_seqs n_checkpoints checkpoint_path save_final_checkpoint output_path resume
    resume_from_checkpoint model_batch_size d_head
"""
"""What was logged and saved."""
INERT: Final = frozenset(f"{HOUSEKEEPING} {TOKENS} {TRAINING} {LOGGING}".split())
"""Keys that change no number of a trained dictionary."""


def migrated(config: Config) -> Config:
    """The config as version 6 states it; one that does so already is returned as it is.

    Raises:
        BadConfig: an old name and its new one with different values.
    """
    if "metadata" in config:
        return config
    values: dict[str, Any] = {}
    for key, value in config.plain().items():
        name = RENAMED.get(key, key)
        if name in values and values[name] != value:
            raise BadConfig(
                f"{config.where}: {name!r} is {values[name]!r} and {key!r}, its old name, {value!r}.", key=name
            )
        values[name] = value
    values.setdefault("architecture", "standard")
    for default in ("prepend_bos", "apply_b_dec_to_input"):
        values.setdefault(default, values["architecture"] not in TRANSCODERS)
    if "reshape_activations" not in values:
        values["reshape_activations"] = "hook_z" if "hook_z" in str(values.get("hook_name")) else "none"
    values["normalize_activations"] = norm_of(values.get("normalize_activations"))
    take_activation(values, config.where)
    metadata = {key: values.pop(key) for key in METADATA & values.keys()}
    return Config({**values, "metadata": metadata}, where=config.where)


TRANSCODERS: Final = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")


def norm_of(value: Any) -> Any:
    """The name of a norm; early files say true or false."""
    return {True: "expected_average_only_in", False: "none", None: "none"}.get(value, value)


def take_activation(values: dict[str, Any], where: str) -> None:
    """Turn the activation function of versions before 6 into an architecture."""
    kind = values.pop("activation_fn", None) or "relu"
    extra: Mapping[str, Any] = values.pop("activation_fn_kwargs", None) or {}
    if kind not in ("relu", "topk", "tanh-relu"):
        raise BadConfig(f"{where}: activation_fn {kind!r} is none of 'relu', 'topk', 'tanh-relu'.", value=kind)
    if kind == "topk":
        # also where the file says "standard": the function decides
        if values.get("k", extra.get("k")) != extra.get("k", values.get("k")):
            raise BadConfig(f"{where}: 'k' is {values['k']!r} and activation_fn_kwargs say {extra['k']!r}.", key="k")
        values.update(architecture="topk", k=extra.get("k", values.get("k")))
    elif extra:
        raise BadConfig(f"{where}: activation_fn {kind!r} takes no activation_fn_kwargs, they are {dict(extra)!r}.")
    if kind == "tanh-relu":
        values["activation_fn"] = kind
