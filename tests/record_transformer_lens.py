"""Writes tests/data/transformer_lens.safetensors: what TransformerLens computes on two tiny models.

Beside it hooked_transformer.safetensors: the state dicts of toy models of its own making, and what they compute.

Run it where TransformerLens 3.9 is installed: ``python tests/record_transformer_lens.py``. The weights are written
beside the activations, under the names that both libraries give them, so that nothing depends on how they were drawn.
"""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

warnings.simplefilter("ignore")
from transformer_lens import HookedTransformer, HookedTransformerConfig, patching  # noqa: E402 - it warns when imported

TARGET = Path(__file__).parent / "data" / "transformer_lens.safetensors"
SIZES: dict[str, Any] = {
    "n_layers": 2,
    "d_model": 8,
    "n_ctx": 16,
    "d_head": 4,
    "n_heads": 2,
    "d_mlp": 12,
    "d_vocab": 13,
}
THEIRS: dict[str, dict[str, Any]] = {
    "gpt2": {"act_fn": "gelu_new", "normalization_type": "LN", "eps": 1e-5},
    "llama": {
        "act_fn": "silu",
        "normalization_type": "RMS",
        "eps": 1e-5,
        "gated_mlp": True,
        "final_rms": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": 4,
        "n_key_value_heads": 1,
    },
}
OURS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 13,
        "n_embd": 8,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 16,
        "n_inner": 12,
        "tie_word_embeddings": False,
    },
    "llama": {
        "model_type": "llama",
        "vocab_size": 13,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "intermediate_size": 12,
        "max_position_embeddings": 16,
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": False,
    },
}
OWN_TARGET = TARGET.with_name("hooked_transformer.safetensors")
OWN: dict[str, dict[str, Any]] = {
    "attention alone": {"attn_only": True},
    "attention alone, no norm": {"attn_only": True, "normalization_type": None, "positional_embedding_type": "alibi"},
    "norms without gains, in parallel": {
        "act_fn": "gelu",
        "normalization_type": "LNPre",
        "final_rms": True,
        "parallel_attn_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": True,
        "scale_attn_by_inverse_layer_idx": True,
    },
    "grouped, local, soft-capped": {
        "act_fn": "gelu_new",
        "normalization_type": "RMS",
        "positional_embedding_type": "rotary",
        "rotary_dim": 2,
        "rotary_base": 100.0,
        "n_key_value_heads": 1,
        "use_local_attn": True,
        "window_size": 3,
        "attn_types": ["global", "local"],
        "attn_scores_soft_cap": 2.0,
        "output_logits_soft_cap": 3.0,
    },
    "plain, unscaled": {"act_fn": "relu", "normalization_type": "RMSPre", "use_attn_scale": False},
}
"""Configs of toy models."""
CORRECT, WRONG = 3, 5


def drawn(name: str) -> HookedTransformer:
    """A model whose gains and biases are neither ones nor zeros."""
    model = HookedTransformer(HookedTransformerConfig(**SIZES, **THEIRS[name], device="cpu", seed=0))
    model.set_use_attn_result(True)
    for key, parameter in model.named_parameters():
        spread = torch.randn_like(parameter) * 0.4
        parameter.data = spread + 1 if key.endswith(".w") else spread
        if key == "unembed.b_U" or (name == "llama" and key.endswith("mlp.b_in")):
            parameter.data.zero_()  # neither family has the first; theirs adds the second behind the gate's product
    return model


def weights(model: HookedTransformer) -> dict[str, torch.Tensor]:
    """Parameters by their names; theirs are called _W_K where heads share keys."""
    return {key.replace("._W_", ".W_").replace("._b_", ".b_"): value for key, value in model.named_parameters()}


def zero_first_head(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
    """A hook that returns something new."""
    return torch.where(torch.arange(2)[:, None, None] == 0, 0.0, pattern)


def double_last(resid: torch.Tensor, hook: Any) -> None:
    """A hook that edits in place."""
    resid[:, -1] *= 2


def own_inputs(model: HookedTransformer, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """What heads and MLPs read of the stream, where each has a copy of its own."""
    names = ["hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in"]
    model.set_use_hook_mlp_in(True)
    model.set_use_split_qkv_input(True)
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith(tuple(names)))
    found = dict(cache.items())
    model.set_use_split_qkv_input(False)
    if model.cfg.n_key_value_heads is None:  # theirs has no attn_in where heads share keys
        model.set_use_attn_in(True)
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_attn_in"))
        found |= dict(cache.items())
        model.set_use_attn_in(False)
    model.set_use_hook_mlp_in(False)
    return found


def patched(model: HookedTransformer, tokens: torch.Tensor, clean: Any) -> dict[str, torch.Tensor]:
    """Maps of patches into the same tokens, read backwards."""

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return (logits[:, -1, CORRECT] - logits[:, -1, WRONG]).mean()

    made = {
        name: getattr(patching, f"get_act_patch_{name}")(model, tokens.flip(1), clean, metric)
        for name in ("attn_head_all_pos_every", "attn_head_by_pos_every", "block_every", "resid_mid")
    }
    made["dest_src"] = patching.get_act_patch_attn_head_pattern_dest_src_pos(model, tokens.flip(1), clean, metric)
    return made


def recorded(name: str) -> dict[str, torch.Tensor]:
    """Weights, activations and what is made of them."""
    model = drawn(name)
    tokens = torch.randint(0, 13, (2, 7))
    logits, cache = model.run_with_cache(tokens)
    hooks = [("blocks.0.attn.hook_pattern", zero_first_head), ("blocks.1.hook_resid_pre", double_last)]
    found = {
        **{f"weights/{key}": value for key, value in weights(model).items()},
        **{f"cache/{key}": value for key, value in cache.items()},
        "tokens": tokens,
        "logits": logits,
        "loss": model(tokens, return_type="loss"),
        "hooked_logits": model.run_with_hooks(tokens, fwd_hooks=hooks),
        "stopped": model(tokens, stop_at_layer=1),
        "stacks/accumulated": cache.accumulated_resid(incl_mid=True, apply_ln=True),
        "stacks/decomposed": cache.decompose_resid(),
        "stacks/heads": cache.stack_head_results(incl_remainder=True, pos_slice=-1),
        "OV": model.OV.AB,
        "QK": model.QK.AB,
        "accumulated_bias": model.accumulated_bias(2),
    }
    found |= {f"inputs/{key}": value for key, value in own_inputs(model, tokens).items()}
    found |= {f"patching/{key}": value for key, value in patched(model, tokens, cache).items()}
    _, back = model.run_with_cache(tokens, return_type="loss", incl_bwd=True)
    found |= {f"gradients/{key}": value for key, value in back.items() if key.endswith("_grad")}
    found = {key: value.detach().clone() for key, value in found.items()}  # what follows is done in place
    model.process_weights_(fold_ln=True, center_writing_weights=name == "gpt2", center_unembed=True)
    _, folded = model.run_with_cache(tokens)
    parts = folded.decompose_resid(pos_slice=-1)
    wrong = torch.full((2,), WRONG)
    found["folded/attributions"] = folded.logit_attrs(parts, torch.full((2,), CORRECT), wrong, pos_slice=-1)
    found |= {f"folded/weights/{key}": value for key, value in weights(model).items()}
    found["folded/normalized"] = folded["ln_final.hook_normalized"]
    return {f"{name}/{key}": value.detach().clone().contiguous() for key, value in found.items()}


def own(name: str) -> dict[str, torch.Tensor]:
    """The state dict of a toy model, its logits and every activation."""
    model = HookedTransformer(HookedTransformerConfig(**SIZES, **OWN[name], device="cpu", seed=0))
    for key, parameter in model.named_parameters():
        parameter.data = torch.randn_like(parameter) * 0.4 + (1 if key.endswith(".w") else 0)
    tokens = torch.randint(0, 13, (2, 7))
    logits, cache = model.run_with_cache(tokens)
    found = {"tokens": tokens, "logits": logits}
    found |= {f"state/{key}": value for key, value in model.state_dict().items()}
    found |= {f"cache/{key}": value for key, value in cache.items()}
    return {f"{name}/{key}": value.detach().clone().contiguous() for key, value in found.items()}


def plain_config(name: str) -> dict[str, Any]:
    """Every key of a toy model's config that JSON can hold."""
    config = HookedTransformerConfig(**SIZES, **OWN[name], device="cpu").to_dict()
    return {key: value for key, value in config.items() if key != "dtype"}


def main() -> None:
    """Write the files."""
    toys = {key: value for name in OWN for key, value in own(name).items()}
    configs = json.dumps({name: plain_config(name) for name in OWN})
    save_file(toys, OWN_TARGET, metadata={"transformer_lens": version("transformer-lens"), "configs": configs})
    print(f"{len(toys)} tensors, {OWN_TARGET.stat().st_size} bytes")
    torch.manual_seed(0)
    metadata = {"transformer_lens": version("transformer-lens"), "configs": json.dumps(OURS)}
    with torch.enable_grad():
        tensors = {key: value for name in OURS for key, value in recorded(name).items()}
    save_file(tensors, TARGET, metadata=metadata)
    print(f"{len(tensors)} tensors, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
