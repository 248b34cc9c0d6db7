"""How well does a model do what the world asks of it? Scores on held-out prompts, through the public API alone.

``python -m mi_registry.tiny_world.evaluate`` prints them for the shipped model, or for any other by name or folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

import mi_core as mi
from mi_core.errors import NoTokenizer
from mi_core.tokenizer import Tokenizer
from mi_registry.tiny_world.prompts import HELD_OUT, Prompt, held_out, repeated_sequences
from mi_registry.tiny_world.rows import Vocabulary

__all__ = ["BARS", "INDUCTION_LOSS", "Figures", "Scores", "induction", "report", "scores", "skill_score"]

Figures = dict[str, float | int]
Scores = dict[str, Figures]
"""Figures by skill: ``{"facts": {"prompts": 330, "top1": 0.99}}``."""

BARS: dict[str, dict[str, float]] = {
    "facts": {"top1": 0.99},
    "indirect_object": {"top1": 0.97, "logit_difference": 3.0},
    "agreement": {"top1": 0.97},
    "induction": {"best_head": 0.8},
}
"""What each figure must reach; besides, the loss of induction stays under `INDUCTION_LOSS` nats."""
INDUCTION_LOSS = 0.1

ROWS = 128
"""Prompts in one run."""


def scores(model: mi.Model) -> Scores:
    """Every skill's figures on its held-out prompts."""
    found = {skill: skill_score(model, held_out(skill)) for skill in HELD_OUT}
    return {**found, "induction": induction(model)}


def skill_score(model: mi.Model, prompts: Sequence[Prompt]) -> Figures:
    """How often a right token comes first, and how far its logit is above the typical mistake's.

    ``top1`` is a share of the prompts; ``logit_difference`` is in logits, the mean of the right tokens' less the mean
    of the wrong ones', where the prompts name any.
    """
    logits = last_logits(model, [prompt.text for prompt in prompts])
    hits, differences = 0, []
    for row, best, prompt in zip(logits, logits.argmax(-1).tolist(), prompts, strict=True):
        right = single_tokens(model, prompt.right)
        hits += best in right
        if prompt.wrong:
            differences.append(row[right].mean() - row[single_tokens(model, prompt.wrong)].mean())
    score: Figures = {"prompts": len(prompts), "top1": hits / len(prompts)}
    return {**score, "logit_difference": float(torch.stack(differences).mean())} if differences else score


def single_tokens(model: mi.Model, texts: Iterable[str]) -> list[int]:
    """The one token of each text."""
    return [tokenizer_of(model).single(text) for text in texts]


def last_logits(model: mi.Model, texts: Sequence[str]) -> Float[Tensor, "prompt d_vocab"]:
    """The logits behind each text."""
    runs = (model.run(list(texts[i : i + ROWS]), logits="last") for i in range(0, len(texts), ROWS))
    return torch.cat([run.logits[:, 0] for run in runs])


def induction(model: mi.Model) -> Figures:
    """How well does a model foretell a random sequence when it comes again?

    ``loss`` in nats, the mean over the second occurrence from its second token on (nothing foretells the first);
    ``best_head`` the largest mean attention of any head from each token of the second occurrence to the token behind
    its first occurrence, where the model has attention.

    Source: Olsson et al. 2022, "In-context Learning and Induction Heads".
    """
    tokenizer = tokenizer_of(model)
    if tokenizer.bos is None:
        raise NoTokenizer("the tokenizer names no BOS, which every row of the world begins with.")
    vocabulary = Vocabulary([tokenizer.text(i) for i in range(tokenizer.size)], tokenizer.bos)
    ids = torch.tensor(repeated_sequences(vocabulary))
    parts = torch.split(ids, ROWS)
    losses = [repeated_loss(model.run(part).logits, part) for part in parts]
    found: Figures = {"prompts": len(ids), "loss": float(torch.cat(losses).mean())}
    if any(point.site.name == "attn.hook_pattern" for point in model.hook_points()):
        heads = torch.stack([head_scores(model, part) for part in parts]).mean(0)
        layer, head = divmod(int(heads.argmax()), heads.shape[1])
        found |= {"best_head": float(heads.max()), "best_head_layer": layer, "best_head_index": head}
    return found


def repeated_loss(logits: Float[Tensor, "row column d_vocab"], ids: Int[Tensor, "row column"]) -> Float[Tensor, "row"]:
    """Mean loss of each row over the second occurrence, its first token left out."""
    length = (ids.shape[1] - 1) // 2
    log_probabilities = logits[:, length + 1 : -1].log_softmax(-1)
    return -log_probabilities.gather(-1, ids[:, length + 2 :, None].to(logits.device)).mean((1, 2))


def head_scores(model: mi.Model, ids: Int[Tensor, "row column"]) -> Float[Tensor, "layer head"]:
    """Mean attention from each token of the second occurrence to the token behind its first occurrence."""
    length = (ids.shape[1] - 1) // 2
    run = model.run(ids, mi.capture("blocks.*.attn.hook_pattern"), logits=None)
    pattern = run.stack("attn.hook_pattern")  # [layer row head query key]
    query = torch.arange(length + 1, 2 * length + 1, device=pattern.device)
    return pattern[..., query, query - length + 1].mean((1, 3))


def tokenizer_of(model: mi.Model) -> Tokenizer:
    """The tokenizer, which the prompts need."""
    if model.tokenizer is None:
        raise NoTokenizer("the world's prompts are texts, and this model has no tokenizer.")
    return model.tokenizer


def report(found: Scores) -> str:
    """The figures, one line for each skill.

    >>> report({"facts": {"prompts": 330, "top1": 0.9939}})
    'facts            prompts 330  top1 0.9939'
    """
    return "\n".join(
        f"{skill:<16} " + "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        for skill, figures in found.items()
    )


def main() -> None:
    """Print the scores of a model."""
    parser = argparse.ArgumentParser(description="Held-out scores on the world's skills.")
    parser.add_argument("model", nargs="?", default="tiny-world", help="an embedded name, a folder or a Hub id")
    print(report(scores(mi.load(parser.parse_args().model))))


if __name__ == "__main__":
    main()
