"""dictionary_learning: ``ae.pt`` and ``config.json``; the config's ``dict_class`` says how it is computed.

The stored numbers are used as they are. Its own ``AutoEncoder.from_pretrained`` divides decoder columns by their norms
unless told not to, so its features differ from these by those norms.
Source: saprmarks/dictionary_learning, dictionary.py and trainers/*.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import Tensor

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.files import Files
from mi_core.formats import Asked
from mi_core.hookspecs import hookimpl
from mi_dictionaries.about import About
from mi_dictionaries.activations import Gated, JumpReLU, ReLU, TopK
from mi_dictionaries.checking import UNIT_NORM
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.stored import Stored, contradiction, read_config

__all__ = ["mi_format"]

CONFIG: Final = "config.json"
Parts = dict[str, Any]


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """One trainer's folder, or a checkpoint below it."""
    name = asked.file or "ae.pt"
    if not re.fullmatch(r"ae(_\w+)?\.pt", name) or not files.has(name):
        return None
    around = files if files.has(CONFIG) else files.above()  # checkpoints/ae_1000.pt lies beside nothing
    if around is None or not around.has(CONFIG):
        return None
    config = read_config(around, CONFIG)
    if "trainer" not in config:
        return None
    trainer = config.child("trainer")
    kind = trainer.choice("dict_class", CLASSES)
    stored = Stored.torch(files, name)
    parts, said = CLASSES[kind](stored, trainer)
    stored.sizes.agree("d_in", trainer.size("activation_dim", default=None), "config.json's activation_dim")
    stored.sizes.agree("d_sae", trainer.size("dict_size", default=None), "config.json's dict_size")
    stored.finish()
    reads = point(trainer, config)
    details = {"dict_class": kind, **trainer.plain(), "buffer": config.get("buffer")}
    if kind in UNIT:
        details[UNIT_NORM] = "its trainer keeps them at one"
    about = About(format="dictionary_learning", model=trainer.get("lm_name"), conventions=said, details=details)
    return SparseDictionary(reads=(reads,), about=about, **parts)


def point(trainer: Config, config: Config) -> str:
    """What is read: a submodule of a layer."""
    name, layer = str(trainer.get("submodule_name") or ""), trainer.get("layer")
    found = re.search(r"layer[_.]?(\d+)", name)
    if found and layer is not None and int(found[1]) != layer:
        raise contradiction(config.where, "the layer", ("submodule_name", name), ("layer", layer))
    if layer is None and found:
        layer = int(found[1])
    if type(layer) is not int:
        raise BadConfig(f"{config.where}: neither 'layer' ({layer!r}) nor 'submodule_name' ({name!r}) names the layer.")
    io = (config.get("buffer") or {}).get("io", "out")
    for start, sites in SITES.items():
        if name.startswith(start) and io in sites:
            return f"blocks.{layer}.{sites[io]}"
    raise BadConfig(f"{config.where}: submodule_name {name!r} with io {io!r} is no place that is known as a point.")


SITES: Final[Mapping[str, Mapping[str, str]]] = {
    "resid_pre": {"out": "hook_resid_pre", "in": "hook_resid_pre"},
    "resid": {"out": "hook_resid_post", "in": "hook_resid_pre"},
    "mlp": {"out": "mlp.hook_out", "in": "mlp.hook_in"},
    "attn": {"out": "attn.hook_out", "in": "attn.hook_in"},
    "attention": {"out": "attn.hook_out", "in": "attn.hook_in"},
    "": {"out": "hook_resid_post", "in": "hook_resid_pre"},
}
"""How a submodule's name begins -> our site, by the side that the buffer took."""


def linear(stored: Stored, *, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    """Encoder and decoder that torch's Linear stores, as ours."""
    encoder, decoder = stored.take("encoder.weight", "d_sae d_in"), stored.take("decoder.weight", "d_in d_sae")
    return encoder.T, decoder.T, stored.take("encoder.bias", "d_sae") if bias else None


CENTRED: Final = "the decoder's bias is subtracted before encoding"
PLAIN: Final = "the decoder's bias is not subtracted before encoding"


def auto_encoder(stored: Stored, _: Config) -> tuple[Parts, tuple[str, ...]]:
    """The first kind: one bias, taken away and given back."""
    W_enc, W_dec, b_enc = linear(stored)
    bias = stored.take("bias", "d_in")
    return {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": bias, "b_in": bias, "activation": ReLU()}, (
        CENTRED,
    )


def auto_encoder_new(stored: Stored, _: Config) -> tuple[Parts, tuple[str, ...]]:
    """Anthropic's of April 2024: the decoder has its own bias."""
    W_enc, W_dec, b_enc = linear(stored)
    bias = stored.take("decoder.bias", "d_in")
    return {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": bias, "activation": ReLU()}, (PLAIN,)


def gated(stored: Stored, _: Config) -> tuple[Parts, tuple[str, ...]]:
    """A gate and a magnitude that share their weights."""
    W_enc, W_dec, none = linear(stored, bias=False)
    bias = stored.take("decoder_bias", "d_in")
    names = ("gate_bias", "mag_bias", "r_mag")
    activation = Gated(*(stored.take(name, "d_sae") for name in names))
    parts = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": none, "b_dec": bias, "b_in": bias}
    return {**parts, "activation": activation}, (CENTRED,)


def jump_relu(stored: Stored, trainer: Config) -> tuple[Parts, tuple[str, ...]]:
    """A threshold for each feature; stored as SAELens stores them."""
    centred = trainer.flag("apply_b_dec_to_input", default=False)
    bias = stored.take("b_dec", "d_in")
    parts = {
        "W_enc": stored.take("W_enc", "d_in d_sae"),
        "W_dec": stored.take("W_dec", "d_sae d_in"),
        "b_enc": stored.take("b_enc", "d_sae"),
        "b_dec": bias,
        "b_in": bias if centred else None,
        "activation": JumpReLU(stored.take("threshold", "d_sae")),
    }
    return parts, (CENTRED if centred else PLAIN, "JumpReLU with a threshold for each feature, strictly above it")


def top_k(stored: Stored, trainer: Config) -> tuple[Parts, tuple[str, ...]]:
    """The k largest after ReLU; the stored threshold is of training."""
    W_enc, W_dec, b_enc = linear(stored)
    bias, k = stored.take("b_dec", "d_in"), k_of(stored, trainer)
    stored.drop("threshold")
    said = (CENTRED, f"the {k} largest of each token; its stored threshold is not used")
    return {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": bias, "b_in": bias, "activation": TopK(k)}, said


def k_of(stored: Stored, trainer: Config) -> int:
    """The k of the file, which the config must not contradict."""
    held, said = stored.number("k"), trainer.get("k")
    if held is not None and said is not None and held != said:
        raise contradiction(stored.where, "k", ("the tensor 'k'", int(held)), ("config.json", said))
    k = said if held is None else held
    if k is None or int(k) != k or not 1 <= k <= stored.sizes["d_sae"]:
        raise BadConfig(f"{stored.where}: k is {k!r}; a whole number from 1 to {stored.sizes['d_sae']} is needed.")
    return int(k)


def batch_top_k(stored: Stored, trainer: Config) -> tuple[Parts, tuple[str, ...]]:
    """Chosen over a batch in training; one threshold for all features afterwards."""
    W_enc, W_dec, b_enc = linear(stored)
    bias = stored.take("b_dec", "d_in")
    activation, said = one_threshold(stored, trainer)
    return {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": bias, "b_in": bias, "activation": activation}, said


def matryoshka(stored: Stored, trainer: Config) -> tuple[Parts, tuple[str, ...]]:
    """The same in nested groups, which say nothing once it is trained; stored as SAELens stores them."""
    stored.drop("group_sizes")
    bias = stored.take("b_dec", "d_in")
    parts = {
        "W_enc": stored.take("W_enc", "d_in d_sae"),
        "W_dec": stored.take("W_dec", "d_sae d_in"),
        "b_enc": stored.take("b_enc", "d_sae"),
        "b_dec": bias,
        "b_in": bias,
    }
    activation, said = one_threshold(stored, trainer)
    return {**parts, "activation": activation}, said


def one_threshold(stored: Stored, trainer: Config) -> tuple[JumpReLU, tuple[str, ...]]:
    """One threshold for all features."""
    value = stored.number("threshold")
    if value is None:
        raise BadConfig(f"{stored.where}: no 'threshold', which batch top-k needs when it is not trained.")
    k_of(stored, trainer)
    return JumpReLU(value), (CENTRED, f"batch top-k as it is used: features above one threshold, {value:.6g}")


CLASSES: Final[Mapping[str, Callable[[Stored, Config], tuple[Parts, tuple[str, ...]]]]] = {
    "AutoEncoder": auto_encoder,
    "AutoEncoderNew": auto_encoder_new,
    "GatedAutoEncoder": gated,
    "JumpReluAutoEncoder": jump_relu,
    "AutoEncoderTopK": top_k,
    "BatchTopKSAE": batch_top_k,
    "MatryoshkaBatchTopKSAE": matryoshka,
}
"""``dict_class`` -> how it is read."""

UNIT: Final = ("AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder")
"""Classes whose trainers keep decoder rows at length one."""
