"""circuit-tracer: ``config.yaml`` with ``layer_i.safetensors``, or ``W_enc_i`` and ``W_dec_i`` for a cross-layer set.

Encoders are stored ``[feature d]``; nothing is centred. JumpReLU and top-k are without ReLU here: a feature may be
below zero where its threshold is, or where fewer than k pre-activations are above it. A config may list files of other
repositories, one for each layer, instead of holding weights.
Source: circuit-tracer 0.4.1, transcoder/*.py and utils/hf_utils.py, whose loader of local folders leaves
``activation``, ``k`` and lists out.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from mi_core.config import Config
from mi_core.errors import BadConfig, ModelNotFound
from mi_core.files import Files
from mi_core.formats import Asked, read_dictionary
from mi_core.hookspecs import hookimpl
from mi_core.hub_files import repository
from mi_dictionaries.about import About
from mi_dictionaries.activations import Activation, JumpReLU, ReLU, TopK
from mi_dictionaries.cross_layer import cross_layer_transcoder_layer
from mi_dictionaries.formats.gemma_scope import read_arrays
from mi_dictionaries.reading.yaml_files import read_yaml
from mi_dictionaries.references import hub_reference, within
from mi_dictionaries.sets import DictionarySet
from mi_dictionaries.sites import layer_of, set_point
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.stored import Stored, contradiction, refuse_unread

__all__ = ["mi_format"]

CONFIG: Final = "config.yaml"
WANDB: Final = ("wandb-config.yaml", "wanb-config.yaml")
LAYER: Final = re.compile(r"layer_(\d+)\.safetensors")
ENCODER: Final = re.compile(r"W_enc_(\d+)\.safetensors")
INERT: Final = frozenset({"scan", "repo_id", "revision", "subfolder", "transcoders", "model_kind", "model_name"})
KINDS: Final = ("transcoder_set", "cross_layer_transcoder")


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """A set, or one layer of it."""
    layers = numbered(files, LAYER), numbered(files, ENCODER)
    named = asked.file
    if named not in (None, CONFIG):
        found = LAYER.fullmatch(named) or ENCODER.fullmatch(named)
        if found is None or ("W_enc" not in named and not is_layer(files, named)):
            return None
        asked = replace(asked, layer=int(found[1]))
    if not files.has(CONFIG) and not any(files.has(name) for name in WANDB):
        return None
    config = described(files)
    if not any(layers) and not config.get("transcoders") and config.get("model_kind") not in KINDS:
        return None
    kind = config.choice("model_kind", KINDS, default=KINDS[bool(layers[1])])
    if config.get("transcoders"):
        every = listed(files, config, asked)
    elif kind == "cross_layer_transcoder":
        every = [clt_layer(files, config, layer, len(layers[1]), asked) for layer in wanted(files, layers[1], asked)]
    else:
        every = [plt_layer(files, config, layer, asked) for layer in wanted(files, layers[0], asked)]
    refuse_unread(config, INERT, asked.ignore_config)
    if asked.layer is not None:
        return every[0]
    return DictionarySet(tuple(every), every[0].about)


def numbered(files: Files, pattern: re.Pattern[str]) -> list[int]:
    """The layers that have a file of this kind."""
    return sorted(int(found[1]) for name in files.names() if (found := pattern.fullmatch(name)))


def is_layer(files: Files, name: str) -> bool:
    """Whether a file that is called so holds what a layer holds."""
    return files.has(name) and "W_enc" in Stored.safetensors(files, name)


def described(files: Files) -> Config:
    """config.yaml; a few repositories have that of the training run only, and the model is in their name."""
    if files.has(CONFIG):
        return Config(read_yaml(files, CONFIG), where=f"{files.where}: {CONFIG!r}")
    name = next(name for name in WANDB if files.has(name))
    size = re.search(r"qwen3-(\d+(?:\.\d+)?)b", str(files.place))
    values = {
        "model_name": f"Qwen/Qwen3-{size[1]}B" if size else None,
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "mlp.hook_out",
    }
    return Config(values, where=f"{files.where}: {name!r}")


def wanted(files: Files, layers: list[int], asked: Asked) -> list[int]:
    """All layers, without a gap, or the one that was asked for."""
    if asked.layer is not None:
        if asked.layer not in layers:
            raise ModelNotFound(f"{files.where}: there is no layer {asked.layer}; it has {layers}.", layer=asked.layer)
        return [asked.layer]
    if layers != list(range(len(layers))) or not layers:
        missing = sorted(set(range(max(layers, default=0) + 1)) - set(layers))
        raise ModelNotFound(
            f"{files.where}: the files of the layers {missing} are missing. Fetch them, or pass layer= for one of "
            f"those that are here: {layers}.",
            missing=tuple(missing),
        )
    return layers


def points(config: Config, layer: int) -> tuple[str, str]:
    """What a layer reads and writes."""
    sides = []
    for key in ("feature_input_hook", "feature_output_hook"):
        suffix = config[key]
        if not isinstance(suffix, str):
            raise BadConfig(f"{config.where}: {key!r} is {suffix!r}; the end of a point's name is needed.", key=key)
        sides.append(set_point(layer, suffix))
    return sides[0], sides[1]


def about(config: Config, how: str) -> About:
    """What is known of a layer."""
    return About(
        format="circuit_tracer",
        model=config.get("model_name"),
        conventions=("b_dec is not subtracted before encoding", how),
        details={**{key: config.get(key) for key in ("scan", "repo_id") if key in config}},
    )


def activation_of(config: Config, stored: Stored, threshold: str, asked: Asked) -> tuple[Activation, str]:
    """What chooses features, and a sentence on it."""
    n = stored.sizes["d_sae"]
    held, stated = stored.number("k"), config.size("k", default=None)
    if held is not None and stated is not None and held != stated:
        raise contradiction(stored.where, "k", ("the tensor 'k'", int(held)), (CONFIG, stated))
    k = asked.k or stated or (int(held) if held is not None else None)
    bound = stored.maybe(threshold, "d_sae")
    kinds = ["relu", "jumprelu", "jump_relu", "topk"]
    kind = config.choice("activation", kinds, default="jumprelu" if bound is not None else "topk" if k else "relu")
    kind = kind.replace("_", "")
    if (kind == "jumprelu") != (bound is not None) or (kind == "topk") != (k is not None):
        raise BadConfig(
            f"{stored.where}: 'activation' is {kind!r}, k is {k!r}, and {threshold!r} is "
            f"{'there' if bound is not None else 'not there'}.",
            activation=kind,
            k=k,
        )
    if bound is not None:
        return JumpReLU(bound, relu=False), "JumpReLU with a threshold for each feature and without ReLU"
    if k is not None:
        if not 1 <= k <= n:
            raise BadConfig(f"{stored.where}: k is {k}, and the tensors have {n} features.", k=k, d_sae=n)
        return TopK(k, relu=False), f"the {k} largest of each token, without ReLU"
    return ReLU(), "ReLU"


def plt_layer(files: Files, config: Config, layer: int, asked: Asked) -> SparseDictionary:
    """One layer of a per-layer set."""
    reads, writes = points(config, layer)
    stored = Stored.safetensors(files, f"layer_{layer}.safetensors")
    encoder, decoder = stored.take("W_enc", "d_sae d_in"), stored.take("W_dec", "d_sae d_out")
    parts: dict[str, Any] = {
        "b_enc": stored.take("b_enc", "d_sae"),
        "b_dec": stored.take("b_dec", "d_out"),
        "W_skip": stored.maybe("W_skip", "d_out d_in"),
    }
    activation, how = activation_of(config, stored, "activation_function.threshold", asked)
    stored.finish()
    return SparseDictionary(
        reads=(reads,),
        writes=(writes,),
        W_enc=encoder.T,
        W_dec=decoder,
        activation=activation,
        about=about(config, how),
        **parts,
    )


def clt_layer(files: Files, config: Config, layer: int, n_layers: int, asked: Asked) -> SparseDictionary:
    """One layer of a cross-layer set: slice j of its decoder writes j layers further on."""
    reads, writes = points(config, layer)
    stored = Stored.safetensors(files, f"W_enc_{layer}.safetensors")
    decoder = Stored.safetensors(files, f"W_dec_{layer}.safetensors", stored.sizes)
    encoder = stored.take(f"W_enc_{layer}", "d_sae d_in")
    W_dec = decoder.rows(f"W_dec_{layer}", "d_sae writes d_out")
    stored.sizes.agree("writes", n_layers - layer, f"the {n_layers} encoders of the set")
    b_enc, b_dec = stored.take(f"b_enc_{layer}", "d_sae"), stored.take(f"b_dec_{layer}", "d_out")
    # circuit-tracer multiplies from the right, untransposed
    skip = stored.maybe(f"W_skip_{layer}", "d_in d_out")
    activation, how = activation_of(config, stored, f"threshold_{layer}", asked)
    stored.finish()
    decoder.finish()
    return cross_layer_transcoder_layer(
        reads=reads,
        writes=[writes.replace(f"blocks.{layer}.", f"blocks.{other}.") for other in range(layer, n_layers)],
        W_enc=encoder.T,
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        W_skip=None if skip is None else skip.T,
        activation=activation,
        about=about(config, how),
    )


def listed(files: Files, config: Config, asked: Asked) -> list[Any]:
    """One dictionary for each entry of the config's list: a URI, a path below the config, or an id with a file."""
    entries = config["transcoders"]
    for key in ("activation", "k"):  # of the listed files, where they are circuit-tracer's
        config.get(key)
    if not isinstance(entries, list) or not entries:
        raise BadConfig(f"{config.where}: 'transcoders' is {entries!r:.60}; a list with one entry per layer is needed.")
    places: dict[int, str] = {}
    for number, entry in enumerate(entries):
        layer, place = placed(config, number, entry)
        if layer in places:
            raise BadConfig(f"{config.where}: 'transcoders' lists layer {layer} twice: {places[layer]!r}, {place!r}.")
        places[layer] = place
    if asked.layer is not None and asked.layer not in places:
        raise ModelNotFound(f"{files.where}: there is no layer {asked.layer}; it has {sorted(places)}.")
    opened = functools.cache(repository)  # one listing for each repository, however many of its files are listed
    return [
        listed_layer(*at(files, place, opened), config, layer, asked)
        for layer, place in sorted(places.items())
        if asked.layer in (None, layer)
    ]


def at(files: Files, place: str, opened: Callable[..., Files]) -> tuple[Files, str | None]:
    """The folder, or the folder and the file, of a URI or of a path below the config."""
    ref = hub_reference(place) if "://" in place else None
    return within(files, place) if ref is None else within(opened(ref.repo, revision=ref.revision), ref.inside)


def placed(config: Config, number: int, entry: Any) -> tuple[int, str]:
    """The layer and the place of an entry."""
    if isinstance(entry, str):
        return number, entry
    if isinstance(entry, dict) and {"layer", "filepath"} <= entry.keys() <= {"id", "layer", "filepath"}:
        layer, path = entry["layer"], entry["filepath"]
        if type(layer) is int and isinstance(path, str):
            return layer, path
    raise BadConfig(
        f"{config.where}: the entry {entry!r:.80} of 'transcoders' is neither a place nor has id, layer and filepath.",
        entry=entry,
    )


def listed_layer(there: Files, name: str | None, config: Config, layer: int, asked: Asked) -> Any:
    """The dictionary at a place, between the points that the config states."""
    reads, writes = points(config, layer)
    if name is not None and name.endswith(".npz"):
        found: Any = read_arrays(Stored.npz(there, name), reads, writes, config.get("model_name"))
    elif name is not None and name.endswith(".safetensors") and is_layer(there, name):
        stated = layer_of(name)
        renamed = {**config.plain(), "transcoders": None}
        plain = Config(renamed, where=config.where)
        found = plt_layer(there, plain, layer if stated is None else stated, asked)
    else:
        _, found = read_dictionary(there, replace(asked, file=name, layer=None))
    return replace(found, reads=(reads,), writes=(writes,))
