"""Temporal autoencoders: ``conf.yaml`` with ``latest_ckpt.safetensors``; the layer is in the folder's name.

Source: canrager/temporalSAEs; SAELens 6.54, ``temporal_sae_huggingface_loader``.
"""

from __future__ import annotations

import re
from typing import Any, Final

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.files import Files
from mi_core.formats import Asked
from mi_core.hookspecs import hookimpl
from mi_dictionaries.about import About
from mi_dictionaries.formats.saelens_others import attention_layers, novel
from mi_dictionaries.reading.yaml_files import read_yaml
from mi_dictionaries.stored import Stored
from mi_dictionaries.temporal import Temporal
from mi_dictionaries.transforms import Scaled

__all__ = ["mi_format"]

CONFIG: Final = "conf.yaml"
WEIGHTS: Final = "latest_ckpt.safetensors"


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """One layer's folder."""
    if not files.has(CONFIG) or not files.has(WEIGHTS) or asked.file not in (None, CONFIG, WEIGHTS):
        return None
    whole = Config(read_yaml(files, CONFIG), where=f"{files.where}: {CONFIG!r}")
    config, llm = whole.child("sae"), whole.child("llm")
    layer = next((found[1] for part in reversed(files.place.parts) if (found := re.search(r"layer_(\d+)", part))), None)
    if layer is None:
        raise BadConfig(f"{files.where}: no folder above it is called 'layer_N', so its layer is not known.")
    stored = Stored.safetensors(files, WEIGHTS)
    decoder, bias = stored.take("D", "d_sae d_in"), stored.take("b", "d_in")
    stored.sizes.agree("d_in", llm.size("dimin", default=None), "dimin")
    factor = config.number("exp_factor", default=None)
    stored.sizes.agree("d_sae", factor and int(stored.sizes["d_in"] * factor), "exp_factor")
    tied = config.flag("tied_weights", default=True)
    scale = config.number("scaling_factor", default=1.0)
    attention = attention_layers(config, stored)
    encoder = None if tied else stored.take("E", "d_in d_sae")
    stored.finish()
    point = f"blocks.{layer}.hook_resid_post"
    return Temporal(
        reads=(point,),
        transforms=(Scaled(scale),),
        b_in=bias,
        W_dec=decoder,
        W_enc=encoder,
        b_dec=bias,
        attention=attention,
        k=novel(config),
        about=About(
            format="temporal",
            model=llm.get("name"),
            conventions=(
                f"activations times {scale:.6g}, then b is subtracted",
                "earlier tokens predict codes; features are the novel ones, after ReLU",
                "the encoder is the decoder transposed" if tied else "the encoder is its own",
            ),
            details=whole.plain(),
        ),
    )
