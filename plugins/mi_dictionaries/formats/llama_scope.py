"""Llama Scope: ``hyperparams.json`` with ``checkpoints/final.safetensors``, and its R1 distills.

Trained on activations scaled to an average norm of sqrt(d). Run on raw ones, features come in its own units (the stored
encoder's) or in those of SAELens and the dashboards, which are larger by ``s = sqrt(d) / average norm``; what is
decoded is the same. R1 distills state one threshold for each feature, which SAELens does not scale: followed here.
Source: OpenMOSS Language-Model-SAEs, ``standardize_parameters_of_dataset_norm``; SAELens 6.54,
``llama_scope_sae_huggingface_loader``, ``llama_scope_r1_distill_sae_huggingface_loader``.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.files import Files
from mi_core.formats import Asked
from mi_core.hookspecs import hookimpl
from mi_dictionaries.about import About
from mi_dictionaries.activations import Activation, JumpReLU, ReLU, TopK
from mi_dictionaries.checking import UNIT_NORM
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.stored import Stored, read_config

__all__ = ["mi_format"]

HYPERPARAMS: Final = "hyperparams.json"
FINAL: Final = "final.safetensors"
CONFIG: Final = "config.json"
WEIGHTS: Final = "sae_weights.safetensors"
LOG_THRESHOLD: Final = "log_jumprelu_threshold"


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """One dictionary of either kind."""
    if files.has(HYPERPARAMS) and asked.file in (None, HYPERPARAMS):
        for name in (f"checkpoints/{FINAL}", FINAL):
            if files.has(name):
                return read(read_config(files, HYPERPARAMS), Stored.safetensors(files, name), asked)
        return None
    if files.has(CONFIG) and files.has(WEIGHTS) and asked.file in (None, CONFIG, WEIGHTS):
        stored = Stored.safetensors(files, WEIGHTS)
        if "encoder.weight" in stored:
            return read(read_config(files, CONFIG), stored, asked)
    return None


def read(config: Config, stored: Stored, asked: Asked) -> SparseDictionary:
    """The dictionary on raw activations."""
    reads, writes = config["hook_point_in"], config.get("hook_point_out") or config["hook_point_in"]
    out = "d_in" if reads == writes else "d_out"
    encoder, decoder = stored.take("encoder.weight", "d_sae d_in"), stored.take("decoder.weight", f"{out} d_sae")
    b_enc, b_dec = stored.take("encoder.bias", "d_sae"), stored.maybe("decoder.bias", out)
    stored.sizes.agree("d_in", config.size("d_model", default=None), "d_model")
    stored.sizes.agree("d_sae", config.size("d_sae", default=None), "d_sae")
    factor = config.size("expansion_factor", default=None)
    stored.sizes.agree("d_sae", factor and factor * stored.sizes["d_in"], "expansion_factor")
    if config.flag("apply_decoder_bias_to_pre_encoder", default=False):
        raise BadConfig(f"{config.where}: 'apply_decoder_bias_to_pre_encoder' is true, which Llama Scope never sets.")
    scale_in, scale_out = scales(config, stored, out)
    own = asked.feature_units == "native"
    activation, how = activation_of(config, stored, 1.0 if own else scale_in, asked)
    stored.finish()
    unit = {UNIT_NORM: "sparsity_include_decoder_norm needs for its threshold to mean what its library compares"}
    included = config.flag("sparsity_include_decoder_norm", default=False)
    return SparseDictionary(
        reads=(reads,),
        writes=(writes,),
        heads=reads.endswith("attn.hook_z"),
        W_enc=encoder.T,
        b_enc=b_enc / scale_in,
        W_dec=decoder.T,
        b_dec=None if b_dec is None else b_dec / scale_out,
        pre_scale=None if own else every(scale_in, b_enc),
        feature_scale=every(scale_in / scale_out if own else 1 / scale_out, b_enc),
        activation=activation,
        about=About(
            format="llama_scope",
            model=config.get("model_name"),
            conventions=("b_dec is not subtracted before encoding", how, units(own, scale_in, scale_out)),
            details={**config.plain(), "feature_units": asked.feature_units, **(unit if included else {})},
        ),
    )


def units(own: bool, scale_in: float, scale_out: float) -> str:
    """A sentence on the units of features."""
    if own:
        return f"features in its own units; SAELens' are {scale_in:.6g} times as large (feature_units='saelens')"
    return (
        f"features in SAELens' units, {scale_in:.6g} times its own (feature_units='native'): the scale to the average "
        f"norm is folded in, decoder / {scale_out:.6g}"
    )


def every(value: float, like: Tensor) -> Tensor:
    """One number for every feature, stored once; in float32, as bfloat16 would round the scale."""
    return torch.tensor(value, dtype=torch.promote_types(like.dtype, torch.float32)).expand(len(like))


def scales(config: Config, stored: Stored, out: str) -> tuple[float, float]:
    """``sqrt(d) / average norm`` of what is read and of what is written."""
    kind = config.choice(
        "norm_activation", ["dataset-wise", "inference", "token-wise", "batch-wise"], default="dataset-wise"
    )
    if kind == "inference":
        return 1.0, 1.0
    if kind != "dataset-wise":
        raise BadConfig(f"{config.where}: 'norm_activation' is {kind!r}; Llama Scope's is 'dataset-wise'.", value=kind)
    norms = config.child("dataset_average_activation_norm")
    norm_in = norms.number("in", at_least=1e-6)
    norm_out = norms.number("out", default=norm_in, at_least=1e-6)
    return stored.sizes["d_in"] ** 0.5 / norm_in, stored.sizes[out] ** 0.5 / norm_out


def activation_of(config: Config, stored: Stored, scale: float, asked: Asked) -> tuple[Activation, str]:
    """What chooses features, in the units that were asked for, and a sentence on it."""
    if LOG_THRESHOLD in stored:
        # never scaled: SAELens' numbers, and its own library's in its own units
        return JumpReLU(stored.take(LOG_THRESHOLD, "d_sae").exp()), "JumpReLU, threshold exp(log_jumprelu_threshold)"
    kind = config.choice("act_fn", ["jumprelu", "topk", "relu"], default="jumprelu")
    if kind == "topk":
        k = asked.k or config.size("top_k", at_most=stored.sizes["d_sae"])
        return TopK(k), f"the {k} largest of each token"
    if kind == "relu":
        return ReLU(), "ReLU"
    value = config.number("jump_relu_threshold")
    return JumpReLU(value * scale), f"JumpReLU with one threshold, {value:.6g} in its own units"
