"""What a checkpoint is, from its config and the headers of its files alone: no weight is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from torch import nn

from mi_core.automatic import family_for
from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.dequantising import Dequantised, plain_tensors
from mi_core.device_maps import Device, Limits, PlaceUse, device_map_of, layer_units, units_of, uses_of
from mi_core.errors import MiError, MissingTensors, UnusedTensors
from mi_core.families import blueprint_of, config_of, empty_backend
from mi_core.files import Files
from mi_core.fill import check_checkpoint, kept_dtype, matches, slots
from mi_core.inert import check_config_used
from mi_core.layer_spans import layer_words
from mi_core.loading import CONFIG, DTYPES, checked_limits, chosen_dtype, read_config, resolve
from mi_core.protocols import Backend, Site
from mi_core.quantised import refuse_quantised_tensors
from mi_core.quantising import Quantiser, check_scheme
from mi_core.resembling import hinted
from mi_core.tensors import WEIGHTS, TensorIndex

__all__ = ["Inspection", "Placement", "inspect"]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Placement:
    """What a device map would do with a model."""

    uses: tuple[PlaceUse, ...]
    main: str
    """Where everything that does not stay elsewhere is computed."""
    dtype: str

    @property
    def brought(self) -> int:
        """Bytes of weights that come to the main device in each forward pass."""
        return sum(use.bytes for use in self.uses if use.offloaded)


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found."""

    where: str
    model_type: str
    problem: MiError | None
    """Why `load` would refuse it; None where every tensor and every config key has its place."""
    read_as: str = ""
    """How the family was found, in words, where nobody claims the model_type."""
    layers: tuple[str, ...] = ()
    """Layers that are alike together, in words."""
    sizes: Mapping[str, int | None] = field(default_factory=dict)
    parameters: int = 0
    """Tied matrices are counted once."""
    tensors: int = 0
    stored: int = 0
    """Bytes of the checkpoint's tensors as they are stored."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Patterns of tensors that are left out on purpose, and why."""
    cache: int | None = None
    """Numbers that one token leaves in keys and values; None where that is not what layers remember."""
    quantised: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the parameters in each dtype with the quantisation that was asked for."""
    dequantised: str = ""
    """Which weights are stored quantised, and are dequantised on loading, in words."""
    placement: Placement | None = None
    """What would go where, if a device map was asked for."""

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of the parameters in each dtype."""
        return {dtype: self.parameters * size for dtype, size in BYTES.items()}


def inspect(
    ref: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    device_map: str | Mapping[str, Device] | None = None,
    max_memory: Mapping[Device, int | str] | None = None,
    dtype: str | torch.dtype = "auto",
    quantise: str | None = None,
) -> Inspection:
    """What is this checkpoint, would it load, and how much memory would it take? Only headers are read.

    With a ``device_map``, ``max_memory`` and ``dtype`` as for `load`: what would go where, on devices that need not be
    here. With ``quantise`` as for `load`: how much memory it would take so.

    Raises:
        LoadError: no such map fits, or nothing can be quantised so.
        ModelNotFound: there is no such model, or no config and no family that knows the tensors.
        CorruptCheckpoint: a header that is not what it claims to be.

    >>> found = inspect("tiny-world")
    >>> found.problem, found.parameters, found.layers[0]
    (None, 722048, 'layers 0 to 3: 4 heads of 32 on 2 keys and values, rotary positions; gated MLP of 256; ln1, ln2')
    """
    if quantise is not None:
        check_scheme(quantise, device_map)
    limits = checked_limits("auto", device_map, max_memory, None)
    files = resolve(ref, revision=revision, token=token)
    config, tensors = config_and_tensors(files)
    model_type = str(config.get("model_type", ""))
    try:
        tensors = plain_tensors(tensors, config)
        backend, blueprint, read_as = checked(config, tensors)
    except MiError as error:
        return Inspection(files.where, model_type, error, tensors=len(tensors), stored=tensors.bytes)
    found = found_in(files, backend, blueprint, tensors, model_type, read_as)
    if quantise is not None:
        return replace(found, quantised=quantised_sizes(quantise, backend, blueprint, model_type))
    if device_map is None:
        return found
    kind = chosen_dtype(dtype, config, tensors)
    return replace(found, placement=placement_of(backend, blueprint, kind, device_map, limits))


def config_and_tensors(files: Files) -> tuple[Config, TensorIndex]:
    """The config, and the index of the headers."""
    tensors = TensorIndex.read(files)
    if files.has(CONFIG) or not any(name.endswith(WEIGHTS) for name in files.names()):
        return read_config(files), tensors
    return config_of(files, tensors), tensors


def checked(config: Config, tensors: TensorIndex) -> tuple[Backend, Blueprint, str]:
    """Everything that loading checks before it reads a weight; how the family was found, in words.

    Raises:
        LoadError: whatever `load` would raise.
    """
    family, read_as = family_for(config, lambda: tensors)
    refuse_quantised_tensors(tensors, tensors.where)
    blueprint = blueprint_of(family, config, tensors)
    check_config_used(config, blueprint.inert, ignore=(), family=family.name)
    backend, module = empty_backend(family, blueprint)
    places = slots(module)
    try:
        check_checkpoint(places, blueprint, tensors, family.name, ())
    except (MissingTensors, UnusedTensors) as error:
        raise hinted(error, blueprint, config, tensors, family.name) from None
    return backend, blueprint, read_as


def placement_of(
    backend: Backend,
    blueprint: Blueprint,
    dtype: torch.dtype,
    device_map: str | Mapping[str, Device],
    limits: Limits | None,
) -> Placement:
    """What would go where."""
    units = units_of(backend, module_of(backend), blueprint, dtype)
    found = device_map_of(device_map, units, limits, layers=layer_units(backend))
    return Placement(tuple(uses_of(found, units)), found.main, str(dtype).removeprefix("torch."))


def found_in(
    files: Files, backend: Backend, blueprint: Blueprint, tensors: TensorIndex, model_type: str, read_as: str
) -> Inspection:
    """What can be said of a checkpoint that would load."""
    places = slots(module_of(backend))
    shape = backend.shape
    return Inspection(
        where=files.where,
        model_type=model_type,
        problem=None,
        read_as=read_as,
        layers=tuple(in_words(backend)),
        sizes={name: getattr(shape, name) for name in ("n_layers", "d_model", "d_vocab", "n_ctx")},
        parameters=sum(tensor.numel() for name, tensor in places.items() if name not in blueprint.tie),
        tensors=len(tensors),
        stored=tensors.bytes,
        dequantised=tensors.words if isinstance(tensors, Dequantised) else "",
        dropped={p: why for p, why in blueprint.dropped.items() if any(matches(name, [p]) for name in tensors)},
        cache=cache_of(backend.sites()),
    )


def quantised_sizes(scheme: str, backend: Backend, blueprint: Blueprint, model_type: str) -> dict[str, int]:
    """Bytes of the parameters in each dtype, quantised on loading."""
    places, sizes = slots(module_of(backend)), {}
    for name in BYTES:
        change = Quantiser.of(scheme, backend, DTYPES[name], model_type)
        kinds = {each: kept_dtype(places[each], weight, DTYPES[name]) for each, weight in blueprint.weights.items()}
        sizes[name] = sum(change(each, places[each].detach().to(kind)).nbytes for each, kind in kinds.items())
    return sizes


def module_of(backend: Backend) -> nn.Module:
    """A backend as the module that `empty_backend` has checked it to be."""
    assert isinstance(backend, nn.Module)
    return backend


def in_words(backend: Backend) -> list[str]:
    """Layers that offer the same sites, together."""
    own: dict[int, list[Site]] = {layer: [] for layer in range(backend.shape.n_layers)}
    for site in backend.sites():
        for layer in site.layers or ():
            own[layer].append(site)
    words = {layer: described(sites) for layer, sites in own.items()}
    alike: dict[str, list[int]] = {}
    for text, run in groupby(words.items(), lambda pair: pair[1]):
        alike.setdefault(text, []).extend(layer for layer, _ in run)
    return [f"{layer_words(layers)}: {text}" for text, layers in alike.items()]


def described(sites: Sequence[Site]) -> str:
    """One layer by its sites."""
    by_name = {site.name: site for site in sites}
    parts = [mixer_words(by_name), channel_words(by_name)]
    norms = [name for name in ("ln1", "ln1_post", "ln2", "ln2_post") if f"{name}.hook_scale" in by_name]
    return "; ".join([part for part in parts if part] + [", ".join(norms) or "no norms"])


def mixer_words(by_name: Mapping[str, Site]) -> str:
    """What mixes positions."""
    q = by_name.get("attn.hook_q")
    if q is None:
        state = by_name.get("mixer.hook_state")
        if state is None:
            return "no attention" if not any(name.startswith("mixer.") for name in by_name) else "recurrent mixer"
        return f"recurrent, states {' x '.join(str(state.sizes[dim]) for dim in state.dims[2:] if dim in state.sizes)}"
    heads, width = q.sizes.get("head"), q.sizes.get("d_head")
    keys = by_name["attn.hook_k"].sizes.get("kv_head") if "attn.hook_k" in by_name else None
    found = [f"{heads} heads of {width}" + (f" on {keys} keys and values" if keys not in (None, heads) else "")]
    for site, words in (
        ("attn.hook_kv_latent", "latent keys and values"),
        ("attn.hook_q_normed", "query and key norms"),
        ("attn.hook_rot_q", "rotary positions"),
        ("attn.hook_sink", "sinks"),
    ):
        found += [words] if site in by_name else []
    return ", ".join(found)


def channel_words(by_name: Mapping[str, Site]) -> str:
    """What works on each position alone."""
    router = by_name.get("mlp.hook_router_logits")
    if router is not None:
        slots = by_name["mlp.hook_expert_indices"].sizes.get("slot")
        shared = " and a shared one" if any(name.startswith("mlp.shared.") for name in by_name) else ""
        return f"{router.sizes.get('expert')} experts, {slots} for each token{shared}"
    post = by_name.get("mlp.hook_post")
    if post is None:
        return ""
    gated = "gated MLP" if "mlp.hook_pre_linear" in by_name else "MLP"
    return f"{gated} of {post.sizes.get('d_mlp')}"


def cache_of(sites: Sequence[Site]) -> int | None:
    """Numbers that one token leaves in the keys and values of all layers; None where layers remember something else."""
    keys = [site for site in sites if site.name in ("attn.hook_k", "attn.hook_v")]
    others = [site for site in sites if site.name in ("attn.hook_kv_latent", "mixer.hook_state")]
    if others or not keys:
        return None
    return sum(int(site.sizes["kv_head"] * site.sizes["d_head"]) * len(site.layers or ()) for site in keys)
