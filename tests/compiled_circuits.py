"""A model whose every edge is known: a previous-token head and an induction head, written by hand.

Head ``L0H1`` looks at the token before and notes it on the stream; head ``L1H2`` looks for a note of the present token
(its keys are composed with the other head's output) and says what stood there. All other heads and the MLPs write
nothing. So in ``x y A B z A`` the model says ``B``, and

- which token is at hand goes ``embed -> L1H2.q``,
- what stood before ``B`` goes ``embed -> L0H1.v``, ``L0H1 -> L1H2.k``,
- that ``B`` stood there goes ``embed -> L1H2.v``,
- and all of it ``L1H2 -> logits``.

The stream is a sum of one-hot vectors. Two large constants on it keep the denominators of norms at what they are, so
that norms are linear but for a part in a thousand, and their gains and biases undo them.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (induction by K-composition); Olsson et
al. 2022, arXiv:2209.11895.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

import mi_core as mi

__all__ = ["CASES", "INDUCTION", "PREVIOUS", "Case", "compiled"]

PREVIOUS, INDUCTION = (0, 1), (1, 2)
"""Layer and head."""
TOKENS, PLACES, HEADS, D_HEAD = 10, 22, 3, 22
CONSTANT = 300.0
LOUD = 10.0
"""The logit of a token to which all attention goes."""
TOKEN = slice(0, TOKENS)
NOTE = slice(TOKENS, 2 * TOKENS)
ANSWER = slice(2 * TOKENS, 3 * TOKENS)
PLACE = slice(3 * TOKENS, 3 * TOKENS + PLACES)
UP, DOWN = 3 * TOKENS + PLACES, 3 * TOKENS + PLACES + 1
WIDTH = HEADS * D_HEAD


@dataclass(frozen=True)
class Case:
    """Two prompts, and the edges by which their difference gets to the logits."""

    clean: list[int]
    corrupt: list[int]
    answer: int
    wrong: int
    edges: frozenset[str]
    heads: dict[tuple[int, int], int]
    """The heads that matter, and the position at which they do."""


x, A, B, C, D, y, z = range(7)
CASES = {
    "query": Case(
        [x, A, B, D, C, A],
        [x, A, B, D, C, D],
        B,
        C,
        frozenset({"embed -> L1H2.q", "L1H2 -> logits"}),
        {INDUCTION: 5},
    ),
    "key": Case(
        [x, y, A, B, z, A],
        [x, y, D, B, z, A],
        B,
        C,
        frozenset({"embed -> L0H1.v", "L0H1 -> L1H2.k", "L1H2 -> logits"}),
        {PREVIOUS: 3, INDUCTION: 5},
    ),
    "value": Case(
        [x, y, A, B, z, A],
        [x, y, A, C, z, A],
        B,
        C,
        frozenset({"embed -> L1H2.v", "L1H2 -> logits"}),
        {INDUCTION: 5},
    ),
}


@cache
def compiled(sharpness: float = 4.0) -> mi.Model:
    """The model; with ``sharpness`` 4 a match gets most of the attention, with 40 all of it."""
    config = {
        "model_type": "gpt2",
        "vocab_size": TOKENS,
        "n_embd": WIDTH,
        "n_layer": 2,
        "n_head": HEADS,
        "n_inner": 4,
        "n_positions": PLACES,
        "tie_word_embeddings": False,
        "scale_attn_weights": False,
    }
    model = mi.build(config, trainable=False, device="cpu")
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.zero_()
        embed(model)
        previous(model)
        induction(model, sharpness)
        model.weights["unembed.W_U"][ANSWER] = torch.eye(TOKENS)
        # ones on the stream: token, place; behind the first layer the note; behind the second the answer
        for norm, notes in (("blocks.0.ln1", []), ("blocks.0.ln2", [1.0]), ("blocks.1.ln1", [1.0])):
            undo(model, norm, [1.0, 1.0, *notes])
        undo(model, "blocks.1.ln2", [1.0, 1.0, 1.0, LOUD])
        undo(model, "ln_final", [1.0, 1.0, 1.0, LOUD])
    return model


def embed(model: mi.Model) -> None:
    """One-hot tokens and places, and the constants."""
    model.weights["embed.W_E"][:, TOKEN] = torch.eye(TOKENS)
    model.weights["embed.W_E"][:, UP] = CONSTANT
    model.weights["embed.W_E"][:, DOWN] = -CONSTANT
    model.weights["pos_embed.W_pos"][:, PLACE] = torch.eye(PLACES)


def undo(model: mi.Model, norm: str, ones: list[float]) -> None:
    """Make a norm the identity on a stream with these numbers beside the constants."""
    mean = sum(ones) / WIDTH
    square = (2 * CONSTANT**2 + sum(one**2 for one in ones)) / WIDTH
    model.weights[f"{norm}.w"].fill_((square - mean**2) ** 0.5)
    model.weights[f"{norm}.b"].fill_(mean)


def previous(model: mi.Model) -> None:
    """Ask for the place before, or else for the first, and note the token that is there."""
    layer, head = PREVIOUS
    part = parts(model, layer, head)
    part["Q"][PLACE, :PLACES] = 80.0 * torch.eye(PLACES).roll(-1, dims=1)
    part["Q"][PLACE, 0] += 40.0
    part["K"][PLACE, :PLACES] = torch.eye(PLACES)
    part["V"][TOKEN, :TOKENS] = torch.eye(TOKENS)
    part["O"][:TOKENS, NOTE] = torch.eye(TOKENS)


def induction(model: mi.Model, sharpness: float) -> None:
    """Ask for a note of the present token, and say the token that is there; nothing stands before the first place."""
    layer, head = INDUCTION
    part = parts(model, layer, head)
    part["Q"][TOKEN, :TOKENS] = sharpness * torch.eye(TOKENS)
    part["K"][NOTE, :TOKENS] = torch.eye(TOKENS)
    part["Q"][UP, TOKENS] = 1 / CONSTANT
    part["K"][PLACE.start, TOKENS] = -2 * sharpness - 40.0
    part["V"][TOKEN, :TOKENS] = torch.eye(TOKENS)
    part["O"][:TOKENS, ANSWER] = LOUD * torch.eye(TOKENS)


def parts(model: mi.Model, layer: int, head: int) -> dict[str, Tensor]:
    """A head's matrices, to be written to."""
    return {name: model.weights[f"blocks.{layer}.attn.W_{name}"][head] for name in "QKVO"}
