"""Making a model from a config alone, filling it with random numbers, and writing one down as a checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, nn

from mi_core.assembling import assembled
from mi_core.blueprint import Blueprint
from mi_core.config import Config
from mi_core.errors import BadConfig, NotSerialisable
from mi_core.families import blueprint_of, empty_backend, family_of
from mi_core.fill import assign, check_blueprint, check_loaded, slots, tie
from mi_core.inert import check_config_used
from mi_core.loading import chosen_device, chosen_dtype, versions
from mi_core.placed import PlacedBackend
from mi_core.protocols import Backend
from mi_core.provenance import Provenance
from mi_core.toys import toy_config

if TYPE_CHECKING:
    from mi_core.model import Model
    from mi_core.tokenizer import Tokenizer

__all__ = ["build", "initialise_randomly", "save_model"]


def build(
    config: Mapping[str, Any] | str,
    *,
    seed: int = 0,
    trainable: bool = True,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "float32",
    tokenizer: Tokenizer | None = None,
    **sizes: Any,
) -> Model:
    """How does a fresh model of this config look? Seeded weights, ready to train, no checkpoint needed.

    ``config`` is a whole config, or a model_type with sizes in the field's names: ``mi.build("gpt2", n_layers=2,
    d_model=64, n_heads=4, d_mlp=256, d_vocab=1000, n_ctx=128)``; sizes that are left out are small, and all else is
    the family's default. What is no size is a config key as it is (``tie_word_embeddings=False``).

    The same seed gives the same weights on every device: drawn on the CPU in float32. Tied parameters are one.

    Raises:
        UnknownFamily: no installed plugin reads its model_type.
        BadConfig: a key is missing, the family has no such size, or the sizes ask for more memory than there is.
        UnusedConfig: a key that may change the numbers was read by nobody.
    """
    from mi_core.model import Model

    if isinstance(config, str):
        config = toy_config(config, sizes)
    elif sizes:
        raise BadConfig(f"{', '.join(sizes)}: a whole config has its sizes in it; give them there.", keys=tuple(sizes))
    place = chosen_device(device)
    recorded = Config(config.plain() if isinstance(config, Config) else config, where="config")
    family = family_of(recorded)
    blueprint = blueprint_of(family, recorded, None)
    check_config_used(recorded, blueprint.inert, family=family.name)
    backend, module = empty_backend(family, blueprint)
    check_blueprint(slots(module), blueprint, family.name)
    check_affordable(module, recorded)
    materialise(module, blueprint)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if blueprint.initialise is not None:
            blueprint.initialise(backend, generator)
        else:
            std = recorded.plain().get("initializer_range")
            initialise(module, blueprint, generator, std if isinstance(std, float) else 0.02)
    module.to(device=place, dtype=chosen_dtype(dtype, recorded, {}))
    for parameter in module.parameters():
        parameter.requires_grad_(trainable and parameter.is_floating_point())
    check_loaded(module, family.name)
    provenance = Provenance(
        ref="build",
        family=family.name,
        plugin=f"{family.distribution} {family.version}",
        seed=seed,
        versions=versions(),
    )
    return Model(backend, name=family.name, config=recorded.plain(), tokenizer=tokenizer, provenance=provenance)


def check_affordable(module: nn.Module, config: Config) -> None:
    """Refuse sizes that this machine's memory cannot hold, before anything is allocated."""
    needed = sum(tensor.numel() * tensor.element_size() for tensor in module.parameters())
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**40
    if needed > have:
        raise BadConfig(
            f"{config.where}: a model of these sizes needs {needed / 2**30:.3g} GiB, this machine has "
            f"{have / 2**30:.3g}. Make it smaller.",
            needed=needed,
            path=config.where,
        )


def materialise(module: nn.Module, blueprint: Blueprint) -> None:
    """Give every parameter memory, and tied ones the same."""
    for name, place in slots(module).items():
        if name not in blueprint.tie:
            assign(module, name, torch.zeros(place.shape, dtype=place.dtype), trainable=True)
    tie(module, blueprint)


def initialise(module: nn.Module, blueprint: Blueprint, generator: Generator, std: float) -> None:
    """normal(0, std), gains one, biases zero."""
    for name, tensor in slots(module).items():
        if name in blueprint.tie or not tensor.is_floating_point():
            continue
        names = (name, *blueprint.weights[name].names)
        if any(is_bias(known) for known in names):
            tensor.zero_()
        elif tensor.ndim < 2:
            tensor.fill_(1.0)
        else:
            tensor.normal_(0.0, std, generator=generator)


def initialise_randomly(model: Model, seed: int) -> None:
    """Fill a model in place so that no parameter is one or zero: what a check needs to see every one of them.

    Gains are uniform in 0.5 to 1.5, biases normal with 0.1, every matrix normal with its own spread of 0.05 to 0.1.
    """
    generator = torch.Generator().manual_seed(seed)
    done: set[int] = set()
    with torch.no_grad():
        for name, tensor in slots(module_of(model.backend)).items():
            if id(tensor) in done or not tensor.is_floating_point():
                continue
            done.add(id(tensor))
            if is_bias(name):
                drawn = torch.randn(tensor.shape, generator=generator) * 0.1
            elif tensor.ndim < 2:
                drawn = torch.rand(tensor.shape, generator=generator) + 0.5
            else:
                spread = 0.05 + 0.05 * torch.rand((), generator=generator)
                drawn = torch.randn(tensor.shape, generator=generator) * spread
            tensor.copy_(drawn)


def save_model(model: Model, folder: str | os.PathLike[str]) -> None:
    """Write a model in its family's own checkpoint layout: what `mi.load` and the reference library read.

    Raises:
        NotSerialisable: the family computes a parameter from checkpoint tensors, which cannot be undone; or something
            was built around the family's backend, or its weights were rewritten or quantised.
    """
    from safetensors.torch import save_file

    if model.provenance.quantised:
        raise NotSerialisable(
            f"the weights of {model.provenance.ref} are quantised, which is done anew on each loading: save the model "
            "that is loaded without quantise=.",
            quantised=model.provenance.quantised,
        )
    config = Config(model.config)
    family = family_of(config, model.provenance.family if model.provenance.read_as else None)
    blueprint = blueprint_of(family, config, None)
    placed = model.backend if isinstance(model.backend, PlacedBackend) else None
    places = slots(module_of(model.backend)) if placed is None else placed.gathered()
    if not places.keys() >= blueprint.weights.keys():
        raise NotSerialisable(
            f"{model.name} is built around the backend of {family.name}: save the model that is inside it.",
            family=family.name,
        )
    homeless = sorted(places.keys() - blueprint.weights.keys() - blueprint.tie.keys())
    homeless += [name for name, source in blueprint.tie.items() if places[name] is not places[source]]
    if homeless:
        raise NotSerialisable(
            f"a checkpoint of {family.name} with this config has no place for {', '.join(homeless[:3])}: the weights "
            f"of {model.provenance.ref} were rewritten. Save the model that they were rewritten from.",
            parameters=homeless,
        )
    tensors = assembled(blueprint.weights, places, family.name)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = {key: value for key, value in config.plain().items() if key not in ("dtype", "torch_dtype")}
    written["dtype"] = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def module_of(backend: Backend) -> nn.Module:
    """A backend as the module that it is."""
    if not isinstance(backend, nn.Module):
        raise NotSerialisable(f"a {type(backend).__name__} is no torch.nn.Module, so its parameters are not known.")
    return backend


def is_bias(name: str) -> bool:
    """Whether a parameter is added, judged by the last part of its name."""
    leaf = name.rpartition(".")[2].lower()
    return leaf in ("b", "bias", "beta") or leaf.startswith(("b_", "bias_")) or leaf.endswith(("_b", "_bias"))
