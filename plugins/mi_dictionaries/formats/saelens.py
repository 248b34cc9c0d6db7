"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``, of versions 3 to 6, training checkpoints included.

Source: SAELens 6.54, saes/*.py; two kinds of version 5 that it loads wrongly or not at all (``tanh-relu``, a finetuned
scale) are read as SAELens 5.9 computes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch

from mi_core.config import Config
from mi_core.errors import BadConfig
from mi_core.files import Files
from mi_core.formats import Asked
from mi_core.hookspecs import hookimpl
from mi_dictionaries.about import About
from mi_dictionaries.activations import AbsTopK, Activation, Gated, JumpReLU, ReLU, TanhReLU, TopK
from mi_dictionaries.adapters import processing_of, transforms_for
from mi_dictionaries.formats.saelens_others import matching_pursuit, temporal
from mi_dictionaries.reading.saelens_config import INERT, TRANSCODERS, migrated
from mi_dictionaries.sparse import SparseDictionary
from mi_dictionaries.stored import Sizes, Stored, read_config, refuse_unread
from mi_dictionaries.transforms import ConstantNorm, LayerNorm, Scaled, Transform, Whitened

__all__ = ["mi_format"]

CONFIG: Final = "cfg.json"
WEIGHTS: Final = "sae_weights.safetensors"
SCALER: Final = "activation_scaler.json"
WHITENING: Final = "activation_whitening.safetensors"

NORMS: Final = (
    "none",
    "expected_average_only_in",
    "layer_norm",
    "constant_norm_rescale",
    "covariance_whitening",
    "constant_scalar_rescale",
)
NORMED: Final[Mapping[str, tuple[Transform, str]]] = {
    "layer_norm": (LayerNorm(), "activations are normed to mean 0 and deviation 1, token by token"),
    "constant_norm_rescale": (ConstantNorm(), "activations are scaled to the norm sqrt(d_in), token by token"),
}
BATCH_TOPK: Final = ("batchtopk", "matryoshka_batchtopk")


@hookimpl
def mi_format(files: Files, asked: Asked) -> Any | None:
    """A SAELens folder."""
    if not files.has(CONFIG) or not files.has(WEIGHTS) or asked.file not in (None, WEIGHTS, CONFIG):
        return None
    config = migrated(read_config(files, CONFIG))
    stored = Stored.safetensors(files, WEIGHTS)
    read = Read(config, config.child("metadata"), stored, *norm(files, config, stored.sizes), str(files.place))
    kinds = {"matching_pursuit": matching_pursuit, "temporal": temporal}
    architecture = config.choice("architecture", [*ACTIVATIONS, *kinds])
    found = kinds[architecture](config, stored, read.frame()) if architecture in kinds else sparse(read, architecture)
    stored.sizes.agree("d_in", config.size("d_in", default=None), "cfg.json")
    stored.sizes.agree("d_sae", config.size("d_sae", default=None), "cfg.json")
    stored.drop("scaling_factor")
    stored.finish()
    refuse_unread(config, {*INERT, "metadata"}, asked.ignore_config)
    return found


@dataclass
class Read:
    """What a SAELens folder says, on its way to a dictionary."""

    config: Config
    metadata: Config
    stored: Stored
    transforms: tuple[Transform, ...]
    conventions: tuple[str, ...]
    place: str

    def frame(self) -> dict[str, Any]:
        """Everything around encoder and decoder."""
        metadata, said = self.metadata, list(self.conventions)
        transcodes = self.config["architecture"] in TRANSCODERS
        reads = metadata["hook_name"]
        if not isinstance(reads, str):
            raise BadConfig(f"{self.config.where}: 'hook_name' is {reads!r}; the point that it reads is needed.")
        writes = metadata.get("hook_name_out") or reads
        adapters, adapted = transforms_for(processing_of(metadata, self.place), reads, writes)
        self.transforms, said = (*adapters, *self.transforms), [*adapted, *said]
        heads = self.config.choice("reshape_activations", ["none", "hook_z"], default="none") == "hook_z"
        if heads:
            said.append("the heads of hook_z are put side by side before encoding, and taken apart again")
        head = metadata.get("hook_head_index")
        if head is not None:
            said.append(f"it reads head {head} alone")
        centred = self.config.flag("apply_b_dec_to_input", default=not transcodes)
        if centred and transcodes:
            raise BadConfig(
                f"{self.config.where}: 'apply_b_dec_to_input' is true, and a transcoder's b_dec is of its output."
            )
        said.insert(0, "b_dec is subtracted before encoding" if centred else "b_dec is not subtracted before encoding")
        about = About(
            format="saelens",
            model=metadata.get("model_name"),
            conventions=tuple(said),
            details={**metadata.plain(), "architecture": self.config["architecture"]},
        )
        transforms = self.transforms
        if transcodes:  # what it writes stands at another point, where no norm of the input is undone
            transforms = tuple(partial_undo(transform) for transform in transforms)
        b_in = self.stored.take("b_dec", "d_in") if centred else None
        return {
            "reads": (reads,),
            "writes": (writes,),
            "transforms": transforms,
            "b_in": b_in,
            "heads": heads,
            "about": about,
        }


def partial_undo(transform: Any) -> Any:
    """The same transform, not undone."""
    import dataclasses

    return dataclasses.replace(transform, undo=False)


def norm(files: Files, config: Config, sizes: Sizes) -> tuple[tuple[Transform, ...], tuple[str, ...]]:
    """What happens to activations at run time, and sentences on it."""
    kind = config.choice("normalize_activations", NORMS, default="none")
    found: tuple[Transform, ...] = ()
    said: tuple[str, ...] = ()
    if kind in NORMED:
        found, said = (NORMED[kind][0],), (NORMED[kind][1],)
    scaler = files.read_json(SCALER) if files.has(SCALER) else {}
    scale = scaler.get("scaling_factor")
    if scale is not None:
        found, said = (*found, Scaled(float(scale))), (*said, f"a training checkpoint: activations times {scale:.6g}")
    elif kind == "expected_average_only_in":
        said = ("scaled to an expected norm in training; the scale is in the weights, nothing happens at run time",)
    if kind == "constant_scalar_rescale" and config["architecture"] != "temporal":
        raise BadConfig(f"{config.where}: 'normalize_activations' is {kind!r}, which only temporal dictionaries have.")
    if kind == "covariance_whitening":
        if not scaler.get("has_whitening") or not files.has(WHITENING):
            raise BadConfig(
                f"{files.where}: 'normalize_activations' is {kind!r}, and {WHITENING!r} is missing: without it the "
                "weights mean nothing. SAELens folds it when it exports a dictionary."
            )
        held = Stored.safetensors(files, WHITENING, sizes)
        mean, matrix = held.take("mean", "d_in"), held.take("matrix", "d_in d_in")
        found = (*found, Whitened(mean, matrix, held.take("inverse_matrix", "d_in d_in")))
        held.finish()
        said = (*said, "a training checkpoint: activations are whitened by a stored matrix")
    return found, said


def sparse(read: Read, architecture: Any) -> SparseDictionary:
    """All architectures with an encoder and a decoder."""
    config, stored = read.config, read.stored
    transcodes, skips = architecture in TRANSCODERS, architecture in ("skip_transcoder", "jumprelu_skip_transcoder")
    out = "d_out" if transcodes else "d_in"
    frame = read.frame()
    weights: dict[str, Any] = {
        "W_enc": stored.take("W_enc", "d_in d_sae"),
        "W_dec": stored.take("W_dec", f"d_sae {out}"),
        "b_dec": stored.take("b_dec", out),
        "b_enc": None if architecture == "gated" else stored.take("b_enc", "d_sae"),
        "W_skip": stored.take("W_skip", "d_out d_in") if skips else None,
    }
    if transcodes:
        stored.sizes.agree("d_out", config.size("d_out", default=None), "cfg.json")
    found = SparseDictionary(**frame, **weights, activation=ACTIVATIONS[architecture](read), **finetuned(read))
    return found.with_decoder_norms() if rescaled(config, architecture) else found


def finetuned(read: Read) -> dict[str, Any]:
    """A scale of features that was trained last; SAELens 6 drops one of ones and refuses any other."""
    scale = read.stored.maybe("scaling_factor", "d_sae")
    said = read.config.flag("finetuning_scaling_factor", default=False)
    if scale is None or bool(torch.isclose(scale.float(), torch.ones(())).all()):
        return {}
    if not said:
        raise BadConfig(
            f"{read.config.where}: the weights hold a 'scaling_factor' that is not one, and "
            "'finetuning_scaling_factor' is false."
        )
    return {"feature_scale": scale}


def rescaled(config: Config, architecture: Any) -> bool:
    """Whether features compete by what they add: pre-activations times the norms of their decoder rows."""
    if architecture not in ("topk", "abstopk", *BATCH_TOPK):
        return False
    return config.flag("rescale_acts_by_decoder_norm", default=architecture in BATCH_TOPK)


def relu(read: Read) -> Activation:
    """ReLU, or the tanh of it in version 5."""
    return TanhReLU() if read.config.get("activation_fn") == "tanh-relu" else ReLU()


def gated(read: Read) -> Activation:
    """A gate with its own bias."""
    return Gated(*(read.stored.take(name, "d_sae") for name in ("b_gate", "b_mag", "r_mag")))


def jumprelu(read: Read) -> Activation:
    """A threshold for each feature; old training checkpoints hold its logarithm."""
    stored = read.stored
    if "log_threshold" in stored and "threshold" not in stored:
        return JumpReLU(stored.take("log_threshold", "d_sae").exp())
    return JumpReLU(stored.take("threshold", "d_sae"))


def one_threshold(read: Read) -> Activation:
    """What batch top-k is once it is trained: one threshold for all features."""
    value = read.stored.number("topk_threshold")
    if value is None:
        raise BadConfig(f"{read.stored.where}: no 'topk_threshold', which batch top-k needs when it is not trained.")
    read.config.get("k")  # of a batch in training; nothing now
    return JumpReLU(value)


def k_of(kind: Any, read: Read) -> Activation:
    """The k largest; a fraction is possible in training only."""
    made: Activation = kind(read.config.size("k", at_most=read.stored.sizes["d_sae"]))
    return made


ACTIVATIONS: Final[Mapping[str, Any]] = {
    "standard": relu,
    "gated": gated,
    "jumprelu": jumprelu,
    "topk": partial(k_of, TopK),
    "abstopk": partial(k_of, AbsTopK),
    "batchtopk": one_threshold,
    "matryoshka_batchtopk": one_threshold,
    "transcoder": relu,
    "skip_transcoder": relu,
    "jumprelu_transcoder": jumprelu,
    "jumprelu_skip_transcoder": jumprelu,
}
"""Architecture -> how its activation is read."""
