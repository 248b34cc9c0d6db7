"""GPT-NeoX Japanese (ABEJA), and everything else that ships as ``model_type: gpt_neox_japanese``.

Traits: GPT-NeoX in sequence and without biases, but for one behind the last layer's attention.
Source: ABEJA 2022, huggingface.co/abeja/gpt-neox-japanese-2.7b; transformers 5.24, models/gpt_neox_japanese.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mi_core.blueprint import Blueprint, Weight
from mi_core.config import Config
from mi_core.hookspecs import hookimpl
from mi_decoder import MLP, Attention, Layer, LayerNorm
from mi_decoder.activations import ACTIVATIONS
from mi_decoder.examples import TINY
from mi_decoder.neox import NEOX_DROPPED, neox_names
from mi_decoder.rope_config import rotary
from mi_decoder.translation import blueprint, decoder, heads

STEM = "gpt_neox_japanese"
INERT = {"hidden_dropout": "dropout, which is off", "weight_tying": "tie_word_embeddings, in the training code"}


@hookimpl
def mi_family(config: Config, tensors: Collection[str] | None) -> Blueprint:
    """A decoder whose last layer alone has a bias, under a name of its own."""
    (n_heads, _, d_head), last = heads(config), config.size("num_hidden_layers") - 1
    n_ctx = config.size("max_position_embeddings", default=2048)
    positions = rotary(config, d_head, n_ctx, theta_key="rotary_emb_base", part=1.0, part_key="rotary_pct")
    activation = ACTIVATIONS[config.choice("hidden_act", ACTIVATIONS, default="gelu")]
    mlp = MLP(config.size("hidden_size") * config.size("intermediate_multiple_size", default=4), activation, bias=False)
    norm = LayerNorm(config.number("layer_norm_eps", default=1e-5, at_least=0.0))

    def layer(index: int) -> Layer:
        return Layer(Attention(n_heads, n_heads, d_head, positions, out_bias=index == last), mlp, ln1=norm, ln2=norm)

    model = decoder(config, layer, norm, positions.scaling.reach(n_ctx))
    names = neox_names(STEM, n_heads, d_head)
    tied = config.flag("tie_word_embeddings", default=True)
    found = blueprint(model, tensors, tied=tied, names=names, prefix=f"{STEM}.", dropped=NEOX_DROPPED, inert=INERT)
    bias = f"layers.{last}.mixer.o_bias"
    name = found.weights[bias].names[0].replace(".dense.bias", ".dense_bias")
    return replace(found, weights={**found.weights, bias: Weight.of(name)})


@hookimpl
def mi_family_examples() -> Sequence[Mapping[str, Any]]:
    """Tiny configs: a part of each head with a scaling; the older spelling."""
    tiny = {key: value for key, value in TINY.items() if key not in ("num_key_value_heads", "intermediate_size")}
    tiny |= {"model_type": "gpt_neox_japanese", "num_hidden_layers": 2}
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e3, "partial_rotary_factor": 0.5}
    return (
        tiny | {"rope_parameters": linear},
        tiny
        | {"rotary_emb_base": 5000, "intermediate_multiple_size": 2, "hidden_act": "relu", "layer_norm_eps": 1e-4}
        | {"tie_word_embeddings": False},
    )
