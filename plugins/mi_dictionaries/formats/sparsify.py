"""EleutherAI's sparsify: for each hookpoint a folder named by the module, with ``cfg.json`` and ``sae.safetensors``.

An autoencoder subtracts the decoder's bias, a transcoder does not, whatever ``normalize_decoder`` says: that one is a
constraint of training. ReLU comes before the choice of the k largest, or of the largest of each of k groups.
Source: EleutherAI sparsify 1.3, sparse_coder.py, fused_encoder.py.
"""

from __future__ import annotations

from typing import Any, Final

from mi_core.config import Config
from mi_core.errors import BadConfig, UnknownFormat
from mi_core.files import Files
from mi_core.formats import Asked
from mi_core.hookspecs import hookimpl
from mi_dictionaries.about import About
from mi_dictionaries.activations import Activation, GroupMax, TopK
from mi_dictionaries.checking import UNIT_NORM
from mi_dictionaries.sets import DictionarySet
from mi_dictionaries.sites import layer_of, point_of
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.stored import Stored, contradiction, read_config, refuse_unread

__all__ = ["mi_format"]

CONFIG: Final = "cfg.json"
WEIGHTS: Final = "sae.safetensors"
FORK: Final = ("W_decs.", "b_decs.", "W_skips.", "post_enc", "in_norm", "out_norm")
INERT: Final = frozenset({"normalize_decoder", "multi_topk", "expansion_factor"})


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """One hookpoint, or all of a root folder, one for each layer."""
    if files.has(CONFIG) and files.has(WEIGHTS) and asked.file in (None, CONFIG, WEIGHTS):
        return hookpoint(files, asked)
    if asked.file is not None:
        return None
    below = {name: files.inside(name) for name in files.folders()}
    points = {name: inside for name, inside in below.items() if inside.has(CONFIG) and inside.has(WEIGHTS)}
    if not points:
        return None
    if asked.layer is not None:
        points = {name: inside for name, inside in points.items() if layer_of(name) == asked.layer}
    if len(points) == 1:
        return hookpoint(next(iter(points.values())), asked)
    if not points or len({layer_of(name) for name in points}) < len(points):
        raise UnknownFormat(
            f"{files.where}: it holds {len(points)} hookpoints of the layer that was asked for or several of one: "
            f"{', '.join(points or below)}. Give the folder of one (REF/HOOKPOINT).",
            where=files.where,
        )
    ordered = sorted(points.items(), key=lambda item: layer_of(item[0]) or 0)
    found = tuple(hookpoint(inside, asked) for _, inside in ordered)
    return DictionarySet(found, found[0].about)


def hookpoint(files: Files, asked: Asked) -> SparseDictionary:
    """The dictionary of one module: at what it gives, or from what it takes to what it gives."""
    config = read_config(files, CONFIG)
    stored = Stored.safetensors(files, WEIGHTS)
    if fork := [name for name in stored.tensors if name.startswith(FORK)]:
        raise BadConfig(
            f"{stored.where}: {', '.join(fork[:4])}: sparsify's fork for cross-layer transcoders wrote it. How its "
            "numbers are meant was never verified here, so it is not read.",
            names=tuple(fork),
        )
    transcodes = config.flag("transcode", default=False)
    encoder, decoder = stored.take("encoder.weight", "d_sae d_in"), stored.take("W_dec", "d_sae d_out")
    if not transcodes:
        stored.sizes.agree("d_out", stored.sizes["d_in"], "'encoder.weight', as it is no transcoder")
    bias = stored.take("b_dec", "d_out")
    skips = config.flag("skip_connection", default=False)
    if skips != ("W_skip" in stored):
        raise contradiction(files.where, "a skip connection", (CONFIG, skips), ("the tensors", "W_skip" in stored))
    check_sizes(config, stored)
    activation, said = activation_of(config, stored)
    root = model_of(files)
    module = files.place.name
    parts: dict[str, Any] = {
        "b_enc": stored.take("encoder.bias", "d_sae"),
        "W_skip": stored.maybe("W_skip", "d_out d_in"),
    }
    stored.finish()
    unit = config.flag("normalize_decoder", default=True) and not transcodes
    refuse_unread(config, INERT, asked.ignore_config)
    writes = point_of(module, model=root or "", where=files.where)
    first = (
        "b_dec is not subtracted before encoding: a transcoder" if transcodes else "b_dec is subtracted before encoding"
    )
    return SparseDictionary(
        reads=(point_of(module, model=root or "", side="input", where=files.where) if transcodes else writes,),
        writes=(writes,),
        W_enc=encoder.T,
        W_dec=decoder,
        b_dec=bias,
        b_in=None if transcodes else bias,
        activation=activation,
        about=About(
            format="sparsify",
            model=root,
            conventions=(first, said),
            details={"module": module, **config.plain(), **({UNIT_NORM: "normalize_decoder states"} if unit else {})},
        ),
        **parts,
    )


def check_sizes(config: Config, stored: Stored) -> None:
    """What the config says of sizes; ``num_latents`` 0 means the expansion of the width."""
    stored.sizes.agree("d_in", config.size("d_in", default=None), CONFIG)
    latents = config.size("num_latents", default=0, at_least=0)
    factor = config.size("expansion_factor", default=None)
    if latents:
        stored.sizes.agree("d_sae", latents, f"{CONFIG}'s num_latents")
    elif factor is not None:
        stored.sizes.agree("d_sae", stored.sizes["d_in"] * factor, f"{CONFIG}'s expansion_factor")


def activation_of(config: Config, stored: Stored) -> tuple[Activation, str]:
    """What chooses features, and a sentence on it."""
    kind = config.choice("activation", ["topk", "groupmax"], default="topk")
    k, n = config.size("k"), stored.sizes["d_sae"]
    signed = config.flag("signed", default=False)
    if signed:
        raise BadConfig(f"{config.where}: 'signed' is true: what it means is not known here, so it is not read.")
    if k > n or (kind == "groupmax" and n % k):
        raise BadConfig(f"{config.where}: k is {k}, and the tensors have {n} features.", k=k, d_sae=n)
    if kind == "groupmax":
        return GroupMax(k), f"ReLU, then the largest of each of {k} groups of {n // k} features"
    return TopK(k), f"ReLU, then the {k} largest of each token"


def model_of(files: Files) -> str | None:
    """The model, from the config of the folder around the hookpoints."""
    above = files.above()
    if above is None or not above.has("config.json"):
        return None
    found = above.read_json("config.json").get("model")
    return found if isinstance(found, str) else None
