"""OpenMOSS' current library: ``config.json``, and ``sae_weights.safetensors`` with ``W_E`` and ``W_D``.

Dictionaries at one point or between two, and cross-layer transcoders, whose decoders are stored by the layer that
they write to. Its crosscoders, Lorsa and MOLT are refused: how they store numbers is not known here.
Source: OpenMOSS Language-Model-SAEs (llamascopium), config.py, sae.py, clt.py.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from mi_dictionaries.cross_layer import cross_layer_transcoder_layer
from mi_dictionaries.rows import Stacked
from mi_dictionaries.sets import DictionarySet
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.stored import Stored, read_config

__all__ = ["mi_format"]

CONFIG: Final = "config.json"
WEIGHTS: Final = "sae_weights.safetensors"
LOG_THRESHOLD: Final = "activation_function.log_jumprelu_threshold"


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """A dictionary, or the layers of a cross-layer transcoder."""
    if not files.has(CONFIG) or not files.has(WEIGHTS) or asked.file not in (None, CONFIG, WEIGHTS):
        return None
    stored = Stored.safetensors(files, WEIGHTS)
    if "W_E" not in stored:
        return None
    config = read_config(files, CONFIG)
    kinds = {"sae": at_points, "clt": clt}
    kind = config.choice("sae_type", kinds, default="sae")
    found = kinds[kind](config, stored, asked)
    stored.finish()
    return found


def at_points(config: Config, stored: Stored, asked: Asked) -> SparseDictionary:
    """One read, one write."""
    reads = config["hook_point_in"]
    writes = config.get("hook_point_out") or reads
    out = "d_in" if reads == writes else "d_out"
    encoder, decoder = stored.take("W_E", "d_in d_sae"), stored.take("W_D", f"d_sae {out}")
    check_sizes(config, stored)
    scales = scale(config, reads, stored.sizes["d_in"]), scale(config, writes, stored.sizes[out])
    own = Own(stored.maybe("b_E", "d_sae"), stored.maybe(LOG_THRESHOLD, "d_sae"), decoder, *scales)
    bias = stored.maybe("b_D", out)
    return SparseDictionary(
        reads=(reads,),
        writes=(writes,),
        heads=reads.endswith("attn.hook_z"),
        W_enc=encoder,
        W_dec=decoder,
        b_dec=None if bias is None else bias / scales[1],
        **own.parts(config, asked),
    )


@dataclass
class Own:
    """The tensors of one dictionary or layer that every kind reads alike."""

    b_enc: Tensor | None
    log_threshold: Tensor | None
    decoder: Tensor | Stacked
    scale_in: float = 1.0
    scale_out: float = 1.0

    def parts(self, config: Config, asked: Asked) -> dict[str, Any]:
        """Encoder bias, activation, scales and what is known.

        Where ``sparsity_include_decoder_norm`` is set, features are chosen by their pre-activations times the norms of
        their decoder rows. For a threshold that is a threshold over those norms; for the k largest, features come in
        those units.
        """
        activation, how = self.activation(config, asked)
        said = ["b_dec is not subtracted before encoding", how]
        pre_scale, back = None, torch.tensor(self.scale_in / self.scale_out).expand(self.decoder.shape[0])
        if config.flag("sparsity_include_decoder_norm", default=True) and not isinstance(activation, ReLU):
            norms = norms_of(self.decoder)
            if isinstance(activation, JumpReLU):
                activation = JumpReLU(torch.as_tensor(activation.threshold) / norms)
                said.append("thresholds are of pre-activations times decoder norms, so they are divided by those")
            else:
                pre_scale, back = norms, back / norms
                said.append("features are pre-activations times decoder norms, by which they are chosen")
        if (self.scale_in, self.scale_out) != (1.0, 1.0):
            said.append(
                f"trained on scaled activations: {self.scale_in:.6g} in and {self.scale_out:.6g} out are folded"
            )
        plain = pre_scale is None and self.scale_in == self.scale_out
        return {
            "b_enc": None if self.b_enc is None else self.b_enc / self.scale_in,
            "activation": activation,
            "pre_scale": pre_scale,
            "feature_scale": None if plain else back,
            "about": About(
                format="openmoss", model=config.get("model_name"), conventions=tuple(said), details=config.plain()
            ),
        }

    def activation(self, config: Config, asked: Asked) -> tuple[Activation, str]:
        """What chooses features, and a sentence on it."""
        kind = config.choice("act_fn", ["relu", "jumprelu", "topk", "batchtopk"], default="relu")
        if (kind == "jumprelu") != (self.log_threshold is not None):
            raise BadConfig(
                f"{config.where}: 'act_fn' is {kind!r}, and the weights "
                f"{'lack' if self.log_threshold is None else 'have'} {LOG_THRESHOLD!r}.",
                act_fn=kind,
            )
        if self.log_threshold is not None:
            return JumpReLU(self.log_threshold.exp()), "JumpReLU, threshold exp(log_jumprelu_threshold)"
        if kind == "relu":
            return ReLU(), "ReLU"
        if kind == "batchtopk":
            raise BadConfig(
                f"{config.where}: 'act_fn' is 'batchtopk', which chooses over a whole batch: its library turns it into "
                "'jumprelu' when training ends. Export it first.",
                act_fn=kind,
            )
        k = asked.k or config.size("top_k", at_most=self.decoder.shape[0])
        return TopK(k), f"the {k} largest of each token, after ReLU"


def norms_of(decoder: Tensor | Stacked) -> Tensor:
    """The norms of decoder rows, over all that they write."""
    parts = decoder.parts if isinstance(decoder, Stacked) else (decoder.flatten(1),)
    each = torch.stack([torch.linalg.vector_norm(part.float(), dim=-1) for part in parts])
    norms: Tensor = torch.linalg.vector_norm(each, dim=0)
    return norms


def check_sizes(config: Config, stored: Stored) -> None:
    """What the config says of sizes."""
    stored.sizes.agree("d_in", config.size("d_model", default=None), "d_model")
    factor = config.number("expansion_factor", default=None)
    stored.sizes.agree("d_sae", factor and int(stored.sizes["d_in"] * factor), "expansion_factor")


def scale(config: Config, point: str, width: int) -> float:
    """``sqrt(d) / average norm`` of a point, where activations were scaled and the weights were not made to fit."""
    kind = config.choice(
        "norm_activation", ["inference", "dataset-wise", "token-wise", "batch-wise"], default="inference"
    )
    if kind == "inference":
        return 1.0
    norms = config.get("dataset_average_activation_norm")
    if kind != "dataset-wise" or not isinstance(norms, dict) or not isinstance(norms.get(point), int | float):
        raise BadConfig(
            f"{config.where}: 'norm_activation' is {kind!r}, and 'dataset_average_activation_norm' of {point!r} is "
            f"{norms.get(point) if isinstance(norms, dict) else norms!r}: how activations are scaled is not known.",
            point=point,
        )
    return float(width**0.5 / norms[point])


def list_of_points(config: Config, key: str) -> tuple[str, ...]:
    """Points, as a config lists them."""
    value = config[key]
    if not isinstance(value, list) or not value or not all(isinstance(point, str) for point in value):
        raise BadConfig(f"{config.where}: {key!r} is {value!r:.80}; a list of points is needed.", key=key)
    return tuple(value)


def clt(config: Config, stored: Stored, asked: Asked) -> Any:
    """Layer by layer: the encoder of one layer, and its slice of every later layer's decoder."""
    reads, writes = list_of_points(config, "hook_points_in"), list_of_points(config, "hook_points_out")
    encoder = stored.take("W_E", "layer d_in d_sae")
    n = len(reads)
    stored.sizes.agree("layer", n, "hook_points_in")
    stored.sizes.agree("layer", len(writes), "hook_points_out")
    check_sizes(config, stored)
    if {scale(config, point, stored.sizes["d_in"]) for point in (*reads, *writes)} != {1.0}:
        raise BadConfig(f"{config.where}: a transcoder of scaled activations is not read; export it for inference.")
    bias = stored.take("b_E", "layer d_sae")
    decoders = [take_decoder(stored, output) for output in range(n)]
    biases = [stored.take(f"b_D.{output}", "d_out") for output in range(n)]
    bound = stored.maybe(LOG_THRESHOLD, "layer d_sae")
    layers = range(n) if asked.layer is None else [asked.layer]
    if asked.layer is not None and not 0 <= asked.layer < n:
        raise BadConfig(f"{config.where}: there is no layer {asked.layer}; it has 0 to {n - 1}.", layer=asked.layer)
    found = []
    for layer in layers:
        weights = Stacked(tuple(decoders[output][layer] for output in range(layer, n)))
        own = Own(bias[layer], None if bound is None else bound[layer], weights)
        found.append(
            cross_layer_transcoder_layer(
                reads=reads[layer],
                writes=writes[layer:],
                W_enc=encoder[layer],
                W_dec=weights,
                b_dec=biases[layer],
                **own.parts(config, asked),
            )
        )
    return found[0] if asked.layer is not None else DictionarySet(tuple(found), found[0].about)


def take_decoder(stored: Stored, output: int) -> Tensor:
    """What all layers up to one write there."""
    decoder = stored.take(f"W_D.{output}", f"inputs_{output} d_sae d_out")
    stored.sizes.agree(f"inputs_{output}", output + 1, f"'W_D.{output}', which every layer up to {output} writes")
    return decoder
