"""Tiny random checkpoints of the reference implementation, and what it computes on them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TINY: Mapping[str, Any] = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
"""A LLaMA that runs in a millisecond."""


def reference(config: Mapping[str, Any], *, seed: int = 0, dtype: str = "float32", attention: str = "eager") -> Any:
    """The reference model of a config, its norm gains and biases random too."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    values = {key: value for key, value in config.items() if key != "model_type"}
    hf = AutoConfig.for_model(config["model_type"], **json.loads(json.dumps(values)))
    hf._experts_implementation = "eager"  # the fused kernel asks for wider experts than tiny ones in bfloat16
    # not .to(dtype) afterwards: that would round the rotary frequencies, which loading never does
    text = "vision_config" not in values and type(hf) in AutoModelForCausalLM._model_mapping
    kind = AutoModelForCausalLM if text else AutoModelForImageTextToText
    model = kind.from_config(hf, attn_implementation=attention, dtype=getattr(torch, dtype))
    scramble(model, seed)
    return model.eval()


def scramble(model: nn.Module, seed: int) -> None:
    """Random numbers in everything that is saved: matrices 0.15 wide, gains around one, biases and buffers 0.3 wide."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(0.15 * noise)
            else:
                parameter.copy_((0.0 if name.endswith("bias") else 1.0) + 0.3 * noise)
        saved = model.state_dict()
        for name, buffer in model.named_buffers():
            if name in saved and buffer.is_floating_point():  # such as biases that take part in the choice of experts
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))


def save(model: Any, folder: Path, *, old: bool = False) -> Path:
    """Write a reference model down; ``old`` spells its config as transformers 4 did."""
    model.save_pretrained(folder)
    if old:
        path = folder / "config.json"
        path.write_text(json.dumps(old_spelling(json.loads(path.read_text()))))
    return folder


NESTED = ("full_attention", "sliding_attention")
NEOX_KEYS = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
OLD_KEYS: Mapping[str, Mapping[str, str]] = {
    "gpt_neox": NEOX_KEYS,
    "gpt_neox_japanese": NEOX_KEYS,
    "mimo_v2_flash": {"rope_local_base_freq": "swa_rope_theta"},
}
"""Families that spelled these in their own way."""


def old_spelling(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with ``rope_theta``, ``rope_scaling`` and ``torch_dtype``."""
    config = dict(config)
    rope = dict(config.pop("rope_parameters"))
    if set(NESTED) & set(rope):
        # the reference read one theta for each kind of layer, and one scaling, for the full layers
        full, sliding = (dict(rope[kind]) for kind in NESTED)
        local = OLD_KEYS.get(str(config.get("model_type")), {}).get("rope_local_base_freq", "rope_local_base_freq")
        config[local] = sliding["rope_theta"]
        rope = full
    keys = OLD_KEYS.get(str(config.get("model_type")), {})
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in rope:
            config[keys.get(key, key)] = rope.pop(key)
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    return config


@torch.no_grad()
def behind_the_last_layer(model: Any, stream: Tensor) -> Tensor:
    """What a reference model makes of the stream behind its last layer, where it returns that: norm, projection."""
    inner = (getattr(model.base_model, name, None) for name in ("decoder", "language_model", "model"))
    stack = next((found for found in inner if found is not None), model.base_model)
    for name in ("norm", "ln_f", "final_layer_norm", "final_layernorm", "layer_norm", "norm_f", "project_out"):
        part = getattr(stack, name, None)
        stream = stream if part is None else part(stream)
    return stream


@torch.no_grad()
def reference_run(model: Any, ids: Tensor, mask: Tensor | None = None) -> Any:
    """Logits, hidden states and patterns of the reference; positions are counted on the mask."""
    mask = torch.ones_like(ids) if mask is None else mask
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    eager = model.config._attn_implementation == "eager"
    return model(
        ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=False,
        output_hidden_states=True,
        output_attentions=eager,
    )


@torch.no_grad()
def reference_routers(model: Any, ids: Tensor) -> list[Tensor]:
    """The router logits ``[batch pos expert]`` of each layer of the reference that has experts, in order."""
    found: list[Tensor] = []

    def keep(module: nn.Module, _: Any, output: Tensor | tuple[Tensor, ...]) -> None:
        # alone, beside weights and indices of the chosen experts, or behind weights of all
        parts = (output,) if isinstance(output, Tensor) else output
        logits = max(enumerate(parts), key=lambda part: (part[1].shape[-1], part[0]))[1]
        found.append(logits.view(*ids.shape, -1))

    routers = [module for module in model.modules() if re.search(r"(Router|Gate)$", type(module).__name__)]
    handles = [router.register_forward_hook(keep) for router in routers]
    model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return found
