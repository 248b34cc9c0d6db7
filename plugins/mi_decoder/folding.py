"""Decoders whose norms, biases and means are moved into neighbouring matrices, where that keeps the probabilities.

A part says which of its matrices ``reads`` the normed stream and which ``writes`` to it, by their names; or, where they
lie in modules of its own, by ``reading()`` and ``writing()``. Why it needs the norm as it is it says as ``keeps_norms``
or ``keeps_norm_biases``; a part that says nothing is not touched.

Sums are made in float32 at least. Source: TransformerLens 3.9, weight_processing.py.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from mi_decoder.attention import AttentionModule
from mi_decoder.layers import DecoderBlock
from mi_decoder.norms import LayerNormModule
from mi_decoder.own_residuals import NormedStreamBlock

if TYPE_CHECKING:
    from mi_decoder.decoder import DecoderBackend

__all__ = ["fold_obstacles", "folded_copy"]

LISTED: Mapping[str, str] = {"reads": "reading", "writes": "writing"}
"""How a part says it where it says more than names."""


def fold_obstacles(decoder: DecoderBackend) -> Mapping[str, str]:
    """Transformation -> why it would change the probabilities of this decoder."""
    foreign = [type(block).__name__ for block in decoder.blocks if not isinstance(block, DecoderBlock)]
    if foreign:
        no_rule = f"there is no rule for a {foreign[0]}"
        reasons = dict.fromkeys(("norms", "value_biases", "center_writing"), no_rule)
    else:
        reasons = {
            "norms": why_no_norms(decoder),
            "value_biases": why_no_value_biases(decoder),
            "center_writing": why_no_center_writing(decoder),
        }
    if decoder.spec.logit_softcap is not None:
        reasons["center_unembed"] = "logits are soft-capped, so that their mean is not lost"
    return {name: reason for name, reason in reasons.items() if reason}


def why_no_norms(decoder: DecoderBackend) -> str:
    """What stands in the way of gains and biases, if anything."""
    for index, block in enumerate(decoder.blocks):
        if isinstance(block, NormedStreamBlock):
            return f"in layer {index} the stream itself goes on through the norms"
        for norm, parts in read_by(block):
            why = why_kept(norm, parts)
            if norm is not None and why:
                return f"in layer {index} {why}"
    return "a projection lies between final norm and unembedding" if decoder.spec.d_embed else ""


def why_kept(norm: Any, parts: list[Any]) -> str:
    """Why parts cannot do without the gain and the bias of the norm that they read, if they cannot."""
    for part in parts:
        biased = norm is not None and norm._parameters["bias"] is not None
        why: str = getattr(part, "keeps_norms", "") or (getattr(part, "keeps_norm_biases", "") if biased else "")
        if not why and not knows(part, "reads"):
            why = "reads the norm by more than plain matrices"
        if why:
            return f"{type(part).__name__} {why}"
    return ""


def why_no_value_biases(decoder: DecoderBackend) -> str:
    """What stands in the way of the biases of values, if anything."""
    for index, block in enumerate(decoder.blocks):
        mixer = block.mixer
        if not isinstance(mixer, AttentionModule):
            return f"layer {index} mixes by {type(mixer).__name__}"
        spec = mixer.spec
        if spec.bias and (
            spec.sinks or spec.gate or any(part is not None for part in (spec.clip, spec.values, spec.z_norm))
        ):
            return f"in layer {index} attention does not sum to one (sinks, gates), or values are clipped or normed"
    return ""


def why_no_center_writing(decoder: DecoderBackend) -> str:
    """What stands in the way of centred writing, if anything."""
    if not isinstance(decoder.ln_final, LayerNormModule):
        return "the final norm does not centre"
    if decoder.embed_norm is not None or decoder.spec.d_embed:
        return "a norm or a projection lies between token embedding and stream"
    for index, block in enumerate(decoder.blocks):
        if block.ln1_post is not None or block.ln2_post is not None:
            return f"in layer {index} a norm lies between what is written and the stream"
        if not all(isinstance(norm, LayerNormModule) for norm, _ in read_by(block)):
            return f"in layer {index} something reads the stream without a norm that centres"
        silent = [type(part).__name__ for part in parts_of(block) if not knows(part, "writes")]
        if silent:
            return f"in layer {index} {silent[0]} writes by more than plain matrices"
    return ""


def folded_copy(decoder: DecoderBackend, transformations: Collection[str]) -> DecoderBackend:
    """A copy, none of its parameters tied, with these transformations done."""
    made = copy.deepcopy(decoder)
    untie(made)
    with torch.no_grad():
        if "norms" in transformations:
            for block in made.blocks:
                for norm, parts in read_by(block):
                    fold(norm, [each for part in parts for each in matrices(part, "reads")])
            fold(made.ln_final, [(made, "unembed")])
        if "value_biases" in transformations:
            for block in made.blocks:
                fold_values(block.mixer)
        if "center_writing" in transformations:
            center_writing(made)
        if "center_unembed" in transformations:
            put(made.unembed_weight, wide(made.unembed_weight) - wide(made.unembed_weight).mean(0))
            if isinstance(made.unembed_bias, Tensor):
                put(made.unembed_bias, wide(made.unembed_bias) - wide(made.unembed_bias).mean())
    return made


def untie(module: nn.Module) -> None:
    """Give each place a parameter of its own where several share one."""
    kept: set[int] = set()
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None and id(parameter) in kept:
                own = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                part._parameters[name] = own
            kept.add(id(parameter))


def read_by(block: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Each norm of a layer that reads the stream (None: the stream itself), and the parts behind it."""
    mixer, *channel = parts_of(block)
    if block.residual.kind == "parallel" and block.ln2 is None:
        yield block.ln1, [mixer, *channel]
    else:
        yield block.ln1, [mixer]
        yield from [(block.ln2, channel)] if channel else ()


def knows(part: Any, what: Literal["reads", "writes"]) -> bool:
    """Whether a part says which of its matrices do so."""
    return hasattr(part, what) or hasattr(part, LISTED[what])


def matrices(part: Any, what: Literal["reads", "writes"]) -> list[tuple[nn.Module, str]]:
    """The matrices of a part that read the normed stream, or write to the stream: where they lie, and their names."""
    listed = getattr(part, LISTED[what], None)
    return [(part, name) for name in getattr(part, what, ())] if listed is None else list(listed())


def parts_of(block: Any) -> list[Any]:
    """Mixer and channel part, if there is one."""
    return [block.mixer] if block.channel is None else [block.mixer, block.channel]


def fold(norm: Any, readers: list[tuple[nn.Module, str]]) -> None:
    """Put a norm's gain and bias into the matrices behind it; what it keeps is one and zero.

    Matrices behind a norm that centres lose what they have of the mean's direction: they never see it.
    """
    if norm is None:
        return
    gain, bias = norm._parameters["weight"], norm._parameters["bias"]
    for module, name in readers:
        matrix = module.get_parameter(f"{name}_weight")
        if bias is not None:
            add_bias(module, f"{name}_bias", wide(matrix) @ wide(bias))
        new = wide(matrix) if gain is None else wide(matrix) * norm.gain.factor(wide(gain))
        put(matrix, new - new.mean(-1, keepdim=True) if isinstance(norm, LayerNormModule) else new)
    if gain is not None:
        # a stored offset from one becomes zero
        gain.copy_(1.0 - norm.gain.factor(torch.zeros_like(gain)))
    if bias is not None:
        bias.zero_()


def fold_values(mixer: Any) -> None:
    """Put the biases of values, as each head's part of W_O passes them on, into the bias of the output."""
    bias = mixer.v_bias
    if bias is None:
        return
    values = wide(bias).view(-1, mixer.d_value).repeat_interleave(mixer.n_heads * mixer.d_value // len(bias), 0)
    add_bias(mixer, "o_bias", wide(mixer.o_weight) @ values.flatten())
    bias.zero_()


def center_writing(decoder: Any) -> None:
    """Take the mean over the stream's dims from all that is written to it."""
    for table in (decoder.embed_weight, decoder.pos_embed_weight):
        if table is not None:
            put(table, wide(table) - wide(table).mean(-1, keepdim=True))
    for block in decoder.blocks:
        for part in parts_of(block):
            for module, name in matrices(part, "writes"):
                for parameter in (module.get_parameter(f"{name}_weight"), module._parameters[f"{name}_bias"]):
                    if parameter is not None:
                        put(parameter, wide(parameter) - wide(parameter).mean(0))


def add_bias(module: nn.Module, name: str, added: Tensor) -> None:
    """Add to a bias, which is made where there was none."""
    old = module._parameters[name]
    if old is None:
        like = next(module.parameters())
        module.register_parameter(name, nn.Parameter(added.to(like.dtype), like.requires_grad))
    else:
        put(old, wide(old) + added)


def put(parameter: Tensor, value: Tensor) -> None:
    """Round a value into its parameter."""
    parameter.copy_(value)


def wide(tensor: Tensor) -> Tensor:
    """In float32, or float64 where it is."""
    return tensor if tensor.dtype is torch.float64 else tensor.float()
