"""Gemma Scope 2 (Gemma 3): ``params.safetensors`` with ``config.json``, or ``params_layer_i.safetensors`` for a CLT.

JumpReLU, no centring. The config names modules of transformers, which are trusted; where a repository has no config,
the folders say what it reads. Transcoders read behind the norm's weight (``mlp.hook_in``), unlike Gemma Scope 1's.
The decoder of a cross-layer transcoder's layer i has a slice for every layer; those before i are not used.
Source: the repositories' config.json; SAELens 6.54, ``gemma_3_sae_huggingface_loader``, which binds transcoders to
another point and sums the slices.
"""

from __future__ import annotations

import re
from typing import Any, Final

from mi_core.config import Config
from mi_core.errors import BadConfig, ModelNotFound
from mi_core.files import Files
from mi_core.formats import Asked
from mi_core.hookspecs import hookimpl
from mi_dictionaries.about import About
from mi_dictionaries.activations import JumpReLU
from mi_dictionaries.checking import UNIT_NORM
from mi_dictionaries.cross_layer import cross_layer_transcoder_layer
from mi_dictionaries.on_disk import OnDisk
from mi_dictionaries.sets import DictionarySet
from mi_dictionaries.sites import layer_of, point_of
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.stored import Stored, contradiction, read_config, refuse_unread

__all__ = ["mi_format"]

SINGLE: Final = "params.safetensors"
LAYER: Final = re.compile(r"params_layer_(\d+)\.safetensors")
SKIP: Final = "affine_skip_connection"
CONFIG: Final = "config.json"

SITES: Final = {
    "resid_post": ("{}.output", None),
    "attn_out": ("{}.self_attn.o_proj.input", None),
    "mlp_out": ("{}.post_feedforward_layernorm.output", None),
    "transcoder": ("{}.pre_feedforward_layernorm.output", "{}.post_feedforward_layernorm.output"),
    "clt": ("{}.pre_feedforward_layernorm.output", "{}.post_feedforward_layernorm.output"),
}
"""Folder -> modules, for repositories without a config."""

CONVENTIONS: Final = (
    "b_dec is not subtracted before encoding",
    "JumpReLU with a threshold for each feature, strictly above it",
)


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """One dictionary, a layer of a cross-layer transcoder, or all its layers."""
    name = asked.file or SINGLE
    if name == SINGLE and files.has(SINGLE):
        stored = Stored.safetensors(files, SINGLE)
        return single(files, stored, asked) if "w_enc" in stored else None
    if found := LAYER.fullmatch(name):
        return layer_of_clt(files, int(found[1]), asked)
    layers = sorted(int(match[1]) for name in files.names() if (match := LAYER.fullmatch(name)))
    if asked.file is not None or not layers:
        return None
    if asked.layer is not None:
        return layer_of_clt(files, asked.layer, asked)
    found_all = tuple(layer_of_clt(files, layer, asked) for layer in layers)
    n = layers[0] + len(found_all[0].writes)
    if layers != list(range(n)):
        missing = sorted(set(range(n)) - set(layers))
        raise ModelNotFound(
            f"{files.where}: the transcoder has {n} layers and the files of {missing} are missing. Fetch them, or pass "
            "layer= for one of those that are here.",
            missing=tuple(missing),
        )
    return DictionarySet(found_all, found_all[0].about)


def single(files: Files, stored: Stored, asked: Asked) -> SparseDictionary:
    """A dictionary between two points, or at one."""
    reads, writes, model, affine = described(files, asked)
    check_skip(files, stored, affine)
    out = "d_in" if reads == writes else "d_out"
    return SparseDictionary(
        reads=(reads,),
        writes=(writes,),
        heads=reads.endswith("attn.hook_z"),
        W_dec=stored.take("w_dec", f"d_sae {out}"),
        b_dec=stored.take("b_dec", out),
        **encoder(stored, out),
        about=about(model, reads),
    )


def layer_of_clt(files: Files, layer: int, asked: Asked) -> SparseDictionary:
    """One layer: the slices of its own and of later layers."""
    stored = Stored.safetensors(files, f"params_layer_{layer}.safetensors")
    reads, writes, model, affine = described(files, asked, layer)
    check_skip(files, stored, affine)
    decoder = stored.rows("w_dec", "d_sae layer d_out")
    n = stored.sizes["layer"]
    if layer >= n:
        raise contradiction(stored.where, "the layer", ("the file's name", layer), ("w_dec, which has slices", n))
    points = [writes.replace(f"blocks.{layer}.", f"blocks.{other}.") for other in range(layer, n)]
    return cross_layer_transcoder_layer(
        reads=reads,
        writes=points,
        W_dec=decoder.behind(layer) if isinstance(decoder, OnDisk) else decoder[:, layer:],
        b_dec=stored.take("b_dec", "d_out"),
        **encoder(stored, "d_out"),
        about=about(model, reads),
    )


def encoder(stored: Stored, out: str) -> dict[str, Any]:
    """What both kinds store alike; the skip connection is stored as it multiplies from the right."""
    skip = stored.maybe(SKIP, f"d_in {out}")
    found = {
        "W_enc": stored.take("w_enc", "d_in d_sae"),
        "b_enc": stored.take("b_enc", "d_sae"),
        "activation": JumpReLU(stored.take("threshold", "d_sae")),
        "W_skip": None if skip is None else skip.T,
    }
    stored.finish()
    return found


def about(model: str, reads: str) -> About:
    """What is known of it."""
    said = [*CONVENTIONS]
    if reads.endswith("attn.hook_z"):
        said.append("the heads of hook_z are put side by side before encoding, and taken apart again")
    return About(
        format="gemma_scope_2", model=model, conventions=tuple(said), details={UNIT_NORM: "Gemma Scope 2 trains them"}
    )


def check_skip(files: Files, stored: Stored, affine: bool | None) -> None:
    """The skip connection is there exactly where it is announced."""
    if affine is not None and affine != (SKIP in stored):
        raise contradiction(
            files.where, "an affine connection", ("the config or folder", affine), ("the tensors", SKIP in stored)
        )


def described(files: Files, asked: Asked, layer: int | None = None) -> tuple[str, str, str, bool | None]:
    """Our points, the model, and whether a skip connection is announced; from the config, else from the folders."""
    path = str(files.place)
    if layer is None:
        layer = layer_of(files.place.name)
    if files.has(CONFIG):
        config = read_config(files, CONFIG)
        config.choice("architecture", ["jump_relu", "jumprelu"])
        name_in, name_out = config["hf_hook_point_in"], config.get("hf_hook_point_out")
        model, affine = config["model_name"], config.get("affine_connection")
        refuse_unread(config, {"l0", "width", "dtype", "layer", "target_l0"}, asked.ignore_config)
        check_layer(config, layer, name_in)
    else:
        kind = next((kind for kind in SITES if re.search(rf"(?:^|/){kind}(?:_all)?(?:/|$)", path)), None)
        if kind is None or layer is None:
            raise BadConfig(
                f"{files.where}: there is no {CONFIG!r}, and the folders above do not say what is read and in which "
                f"layer ({'/'.join(SITES)}/layer_N_...). Keep the folders of the repository.",
                where=files.where,
            )
        name_in, name_out = (name and name.format(f"model.layers.{layer}") for name in SITES[kind])
        model = next((part for part in reversed(files.place.parts) if "gemma-scope-2" in part), "gemma-scope-2")
        affine = (files.place.name.endswith("_affine") or None) if kind != "clt" else None
    model = hub_name(str(model))
    if layer is not None and layer_of(str(name_in)) not in (None, layer):  # a CLT's config states its first layer
        name_in, name_out = (name and re.sub(r"layers\.\d+", f"layers.{layer}", name) for name in (name_in, name_out))
    reads = point_of(str(name_in), model="gemma-3", where=files.where)
    return reads, point_of(str(name_out), model="gemma-3", where=files.where) if name_out else reads, model, affine


def check_layer(config: Config, layer: int | None, name: Any) -> None:
    """The folder's layer and the config's are one."""
    stated = layer_of(str(name))
    if "clt" not in config.where and layer is not None and stated not in (None, layer):
        raise contradiction(config.where, "the layer", ("the folder's name", layer), ("hf_hook_point_in", stated))


def hub_name(name: str) -> str:
    """The model's name on the Hub.

    >>> hub_name("gemma-v3-1b-pt"), hub_name("gemma-scope-2-270m-pt")
    ('google/gemma-3-1b-pt', 'google/gemma-3-270m')
    """
    short = name.rpartition("/")[2].replace("-v3", "-3").replace("gemma-scope-2", "gemma-3")
    # transformers' repository of the smallest base model is called without the suffix
    return f"google/{short.removesuffix('-pt') if '270m' in short else short}"
