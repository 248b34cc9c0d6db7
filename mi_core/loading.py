"""Loading a model: from a name, a folder or a Hub id to a model whose every number is accounted for."""

from __future__ import annotations

import contextlib
import difflib
import functools
import gc
import os
import platform
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from mi_core import registry
from mi_core.automatic import family_for
from mi_core.config import Config
from mi_core.dequantising import Dequantised, plain_tensors
from mi_core.device_maps import limits_of
from mi_core.errors import BadConfig, LoadError, MissingTensors, ModelNotFound, UnusedTensors
from mi_core.families import blueprint_of, config_of, empty_backend
from mi_core.files import Files, is_file
from mi_core.fill import fill
from mi_core.gain_signs import check_gains
from mi_core.inert import check_config_used
from mi_core.provenance import Provenance
from mi_core.quantised import KEYS, refuse_quantised_tensors
from mi_core.quantising import Quantiser, check_scheme
from mi_core.resembling import hinted
from mi_core.spreading import Spreading
from mi_core.tensors import PICKLES, WEIGHTS, TensorIndex

if TYPE_CHECKING:
    from mi_core.model import Model
    from mi_core.tokenizer import Tokenizer

__all__ = ["load", "resolve"]

CONFIG: Final = "config.json"
DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Put the cyclic collector off meanwhile.

    What is made here stays, and one full pass over all that importing torch made takes 80 ms, longer than loading does.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@uncollected()
def load(
    ref: str | os.PathLike[str],
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    device_map: str | Mapping[str, str | int | torch.device] | None = None,
    max_memory: Mapping[str | int | torch.device, int | str] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
    backend: str | None = None,
    quantise: str | None = None,
    ignore_config: Collection[str] = (),
    ignore_tensors: Collection[str] = (),
    allow_pickle: bool = False,
) -> Model:
    """Which model is this? An embedded name, a local folder or a Hub id becomes a model with frozen weights.

    Every tensor of the checkpoint is used or dropped on purpose, every parameter is filled, and every config key that
    may change the numbers is read; anything else is an error that lists the names.

    Args:
        ref: An embedded model's name (`mi models` lists them); a folder, with a slash or a leading dot; a Hub id; a
            ``.pth`` file, which needs ``allow_pickle=True`` and a family that knows its tensors.
        device: ``"auto"`` takes CUDA, then MPS, then the CPU.
        dtype: ``"auto"`` takes the config's, else that of the first tensor. On the CPU and in the checkpoint's own
            dtype nothing is copied: the parameters are views of the file.
        device_map: For a model that does not fit on one device, in place of ``device``: ``"auto"``, ``"balanced"``,
            ``"sequential"``, or a mapping from ``"outside"`` (embedding, final norm, unembedding), ``"blocks.0"``,
            ... (``"blocks"``: all layers, ``""``: everything) to devices and ``"disk"``. Layers on ``"disk"``, and on
            ``"cpu"`` beside an accelerator, are brought in for each call.
        max_memory: What each device may hold: ``{"cuda:0": "10GB", "cpu": "30GB"}``; None for what is free now.
        offload_folder: Where layers on disk are written once that the checkpoint does not hold as they are needed
            (another dtype, stacked, pickled); None to convert them each time. Emptied when the model goes.
        revision: Branch, tag or commit of a Hub repository.
        token: For private Hub repositories; None takes the one that is logged in.
        tokenizer: Instead of the checkpoint's own: an object, or the file, folder or Hub id to read one from.
        backend: The family that shall read the checkpoint, instead of the one that its model_type names.
        quantise: ``"int8"`` or ``"float8"`` holds the matrices that layers multiply by in eight bits, each one as soon
            as it is read; needs the extra ``quantised``.
        ignore_config: Config keys that may go unread.
        ignore_tensors: Names or patterns of tensors that may go unused.
        allow_pickle: Read pickle files (``pytorch_model.bin``, one ``.pth`` in a folder or alone) where there are no
            safetensors; without running code from them.

    Raises:
        ModelNotFound: there is no such model, folder or repository, or a file of it is missing.
        BadConfig: config.json is no valid JSON, lacks a key, or states absurd numbers; or the weights are quantised.
        UnusedConfig: a key that may change the numbers was read by nobody.
        UnknownFamily: no installed plugin reads its model_type, and its tensors and keys leave open what it is.
        MissingTensors: a parameter that the checkpoint does not fill.
        UnusedTensors: a tensor that goes nowhere.
        TensorMismatch: a tensor of another shape than the config implies.
        CorruptCheckpoint: a weights file that is truncated or not what it claims to be.
    """
    from mi_core.model import Model

    place = chosen_device(device)
    if quantise is not None:
        check_scheme(quantise, device_map)
    limits = checked_limits(device, device_map, max_memory, offload_folder)
    files = resolve(ref, revision=revision, token=token, allow_pickle=allow_pickle)
    headers = functools.cache(functools.partial(TensorIndex.read, files, allow_pickle=allow_pickle))
    if files.has(CONFIG) or not any(name.endswith(WEIGHTS) for name in files.names()):
        config = read_config(files)
    else:
        config = config_of(files, headers(), backend)
    plain = functools.cache(lambda: plain_tensors(headers(), config))
    family, read_as = family_for(config, plain, backend, ignore_config=ignore_config, ignore_tensors=ignore_tensors)
    tensors = plain()
    refuse_quantised_tensors(tensors, tensors.where)
    blueprint = blueprint_of(family, config, tensors)
    ignored_config = check_config_used(config, blueprint.inert, ignore=ignore_config, family=family.name)
    made, module = empty_backend(family, blueprint)
    kind = chosen_dtype(dtype, config, tensors)
    change = None if quantise is None else Quantiser.of(quantise, made, kind, family.name)
    try:
        if device_map is None:
            how: dict[str, Any] = {"family": family.name, "dtype": kind, "device": place}
            ignored_tensors = fill(module, blueprint, tensors, **how, ignore=ignore_tensors, change=change)
        else:
            spreading = Spreading(made, module, blueprint, tensors, kind)
            to = device_map, limits, offload_folder
            made, ignored_tensors = spreading.fill(*to, family=family.name, ignore=ignore_tensors)
    except (MissingTensors, UnusedTensors) as error:
        raise hinted(error, blueprint, config, tensors, family.name) from None
    if read_as:
        check_gains(made, module, family.name, config.where)
    provenance = Provenance(
        ref=os.fspath(ref),
        family=family.name,
        read_as=read_as,
        quantised="" if change is None else str(change),
        dequantised=tensors.words if isinstance(tensors, Dequantised) else "",
        plugin=f"{family.distribution} {family.version}",
        revision=files.revision,
        ignored_config=ignored_config,
        ignored_tensors=ignored_tensors,
        versions=versions(),
    )
    return Model(
        made,
        name=family.name,
        config={key: value for key, value in config.plain().items() if key not in KEYS},
        tokenizer=chosen_tokenizer(tokenizer, files, config, token=token),
        provenance=provenance,
    )


def resolve(
    ref: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    weights: bool = True,
    allow_pickle: bool = False,
) -> Files:
    """The files that a reference means: an embedded model, a folder, or a snapshot of the Hub, fetched if need be.

    Raises:
        ModelNotFound: nothing of that name, or a bare name that means two things.
    """
    name = os.fspath(ref)
    folder = Path(os.path.expanduser(name))  # noqa: PTH111  # Path's own raises where there is no such user
    if name.endswith(PICKLES) and is_file(folder):
        return Files(folder.parent, where=f"file {name!r}", only=folder.name)
    there = os.path.isdir(folder)  # noqa: PTH112  # Path's own raises for names that are too long
    if not isinstance(ref, str) or "/" in name or os.sep in name or name.startswith((".", "~")):
        if there:
            return Files(folder, where=f"folder {name!r}")
    else:
        found = registry.embedded(name) if name else None
        if there and name:
            also = "an embedded model" if found else "perhaps a Hub id"
            raise ModelNotFound(
                f"{name!r} is a folder here and {also}: write './{name}' for the folder"
                f"{', or rename the folder for the embedded model' if found else ''}.",
                ref=name,
            )
        if found is not None:
            return found
    from mi_core import hub

    if isinstance(ref, str) and hub.is_id(name):
        try:
            return hub.snapshot(name, revision=revision, token=token, weights=weights, allow_pickle=allow_pickle)
        except ModelNotFound as error:
            if close := difflib.get_close_matches(name, embedded_names(), n=1):
                raise ModelNotFound(f"{error} Did you mean the embedded model {close[0]!r}?", ref=name) from error
            raise
    raise ModelNotFound(
        f"there is no folder {name!r}{' (it is a file)' if is_file(folder) else ''}, and it is no Hub id "
        f"('owner/name') and no embedded model. Embedded: {', '.join(embedded_names()) or 'none'}.",
        ref=name,
    )


def embedded_names() -> list[str]:
    """The embedded models that are installed."""
    return [name for name, page in registry.pages().items() if page.embedded]


def read_config(files: Files) -> Config:
    """A checkpoint's config.json."""
    if not files.has(CONFIG):
        raise ModelNotFound(
            f"{files.where}: no {CONFIG!r}, so it holds no model. It has: {', '.join(files.names()) or 'nothing'}.",
            where=files.where,
            name=CONFIG,
        )
    return Config(files.read_json(CONFIG), where=str(files.path(CONFIG)))


def checked_limits(
    device: str | torch.device, device_map: object, max_memory: Any, offload_folder: object
) -> dict[str, int] | None:
    """What each device may hold; refuses what says nothing together."""
    if device_map is None and (max_memory is not None or offload_folder is not None):
        what = "max_memory" if max_memory is not None else "offload_folder"
        raise LoadError(f'{what} goes with device_map: give device_map="auto", or leave it out.')
    if device_map is not None and device != "auto":
        raise LoadError(
            f"device={device!r} and device_map={device_map!r} both say where the model goes: leave one out."
        )
    return limits_of(max_memory)


def chosen_device(device: str | torch.device) -> torch.device:
    """The device that is meant; ``"auto"`` takes CUDA, then MPS, then the CPU."""
    if device == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise LoadError(f"device {device!r} is none that torch knows; try 'auto', 'cpu' or 'cuda'.") from error
    if (chosen.type == "cuda" and not torch.cuda.is_available()) or chosen.type == "meta":
        raise LoadError(f"device {device!r} is not available here; try 'auto' or 'cpu'.", device=device)
    return chosen


def chosen_dtype(dtype: str | torch.dtype, config: Config, tensors: Mapping[str, Any]) -> torch.dtype:
    """The dtype that is meant; ``"auto"`` takes the config's, else that of the first floating-point tensor."""
    if dtype == "auto":
        own = (info.dtype for info in tensors.values() if info.dtype.is_floating_point)
        dtype = stated_dtype(config) or next(own, torch.float32)
    if isinstance(dtype, str):
        return named_dtype(dtype, "dtype")
    if dtype not in DTYPES.values():
        raise LoadError(f"dtype {dtype} is none to compute in; one of {', '.join(DTYPES)}.", dtype=dtype)
    return dtype


def stated_dtype(config: Config) -> torch.dtype | None:
    """What the config says, under its old or its new key, at the top or for the text part."""
    values = config.plain()
    for part in (values, values.get("text_config")):
        for key in ("dtype", "torch_dtype"):
            stated = part.get(key) if isinstance(part, dict) else None
            if stated not in (None, "auto"):
                return named_dtype(stated, f"{config.where}: {key!r}")
    return None


def named_dtype(name: Any, what: str) -> torch.dtype:
    """A floating-point type by name."""
    found = DTYPES.get(name.removeprefix("torch.")) if isinstance(name, str) else None
    if found is None:
        raise BadConfig(f"{what} is {name!r}; it must be one of {', '.join(DTYPES)}.", value=name)
    return found


def chosen_tokenizer(
    given: Tokenizer | str | os.PathLike[str] | None, files: Files, config: Config, *, token: str | bool | None = None
) -> Tokenizer | Callable[[], Tokenizer | None]:
    """The tokenizer that is given, or a function that reads one when a text first needs it."""
    if isinstance(given, str | os.PathLike):
        if is_file(path := Path(given)):
            files = Files(path.parent, where=f"file {str(path)!r}", only=path.name)
        else:
            files = resolve(given, token=token, weights=False)
        if files.has(CONFIG):
            config = read_config(files)
    elif given is not None:
        return given

    def find() -> Tokenizer | None:
        from mi_core.tokenizer import find_tokenizer, no_tokenizer

        found = find_tokenizer(files, config)
        if found is None and given is not None:
            raise no_tokenizer(files.where)
        return found

    return find


@functools.cache
def versions() -> dict[str, str]:
    """What the numbers may depend on."""
    try:
        ours = version("mi-core")
    except PackageNotFoundError:
        ours = "unknown"
    return {"mi-core": ours, "torch": torch.__version__, "python": platform.python_version()}
