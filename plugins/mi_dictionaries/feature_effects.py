"""What a feature writes: the tokens that it promotes, the features that write alike, and who writes in a direction."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

import mi_core as mi
from mi_core.dictionaries import Dictionary
from mi_core.errors import UnsupportedAnalysis, ValueMismatch
from mi_core.labelled import Labelled
from mi_dictionaries.belonging import check_model
from mi_dictionaries.sets import DictionarySet

__all__ = ["decoder_directions", "logit_effects", "neighbours", "projections"]

STREAM = ("hook_embed", "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
"""What is the stream, or is added to it."""
AFTER = {"attn.hook_out": "ln1_post.hook_scale", "mlp.hook_out": "ln2_post.hook_scale"}
"""What is added as it is where there is no norm behind it."""
CHUNK = 8192
"""Features whose rows are read at a time."""


def decoder_directions(
    model: mi.Model, dictionary: Dictionary, features: Int[Tensor, "n"]
) -> Float[Tensor, "n d_model"]:
    """What each feature adds to the stream for an activation of one: its decoder row.

    Of one that writes the mixed values of heads, carried through W_O; of one that writes at several layers, their sum.

    Raises:
        ValueMismatch: it is of another model.
        UnsupportedAnalysis: it writes at a point that is no part of the stream and does not lead straight into it.
    """
    tuple(check_model(dictionary, model.provenance))
    rows = dictionary.decoder_rows(features).float()
    if rows.ndim == 3:
        rows = rows.sum(1)
    point = dictionary.site_out
    site = point.split(".", 2)[-1] if point.startswith("blocks.") else point
    if site == "attn.hook_z":
        return rows @ model.weights[point.replace("hook_z", "W_O")].flatten(0, 1).float().to(rows.device)
    changed = f"{point.removesuffix(site)}{AFTER.get(site, '')}" in {each.name for each in model.points}
    if site not in (*STREAM, *AFTER) or changed or rows.shape[1] != model.shape.d_model:
        raise UnsupportedAnalysis(
            f"the dictionary writes {rows.shape[1]} numbers at {point!r}, which are not added to the stream of "
            f"{model.name} as they are: what that does to the logits is not linear.",
            point=point,
        )
    return rows


def logit_effects(model: mi.Model, dictionary: Dictionary, features: Int[Tensor, "n"]) -> Float[Tensor, "n d_vocab"]:
    """What each feature adds to each logit for an activation of one, straight through the unembedding.

    The gain of the last norm counts (and the mean that it takes off, where it does), its scale does not, and nor does
    what later layers make of it: effects of one feature are right relative to each other. Their mean over the
    vocabulary is taken off, which softmax ignores.

    Source: nostalgebraist 2020, the logit lens; Neuronpedia's positive and negative logits.
    """
    rows = decoder_directions(model, dictionary, features)
    rows = rows - rows.mean(1, keepdim=True) if takes_off_means(model) else rows
    gain = final_gain(model)
    effects = (rows if gain is None else rows * gain.to(rows)) @ model.weights["unembed.W_U"].float().to(rows.device)
    return effects - effects.mean(1, keepdim=True)


def final_gain(model: mi.Model) -> Tensor | None:
    """The gain of the last norm, where there is one."""
    try:
        return model.weights["ln_final.w"].float()
    except KeyError:
        return None


def takes_off_means(model: mi.Model) -> bool:
    """Whether the last norm does: found by asking it."""
    x = torch.randn(4, model.shape.d_model, generator=torch.Generator().manual_seed(0))
    one, other = (model.unembed(each).float() for each in (x, x + 1.0))
    return bool((one - other).abs().max() <= 1e-2 * one.abs().max())


def neighbours(
    dictionary: Dictionary, features: Int[Tensor, "n"], k: int = 10
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """The features whose decoder rows point most nearly the same way, and the cosines; a feature is not its own."""
    own = unit(dictionary.decoder_rows(features))
    best = torch.full((len(features), 0), -2.0)
    index = torch.zeros(len(features), 0, dtype=torch.long)
    for begin, rows in row_chunks(dictionary):
        cosine = own @ unit(rows).T
        inside = (features >= begin) & (features < begin + len(rows))
        cosine[inside, features[inside] - begin] = -2.0
        numbers = torch.arange(begin, begin + len(rows)).expand(len(features), -1)
        best, index = torch.cat((best, cosine), 1), torch.cat((index, numbers), 1)
        kept = best.topk(min(k, best.shape[1], dictionary.d_sae - 1), 1)
        best, index = kept.values, index.gather(1, kept.indices)
    return index, best


def projections(
    dictionary: Dictionary | DictionarySet, direction: Float[Tensor, "d_model"], *, k: int = 20, cosine: bool = False
) -> Labelled:
    """Which features write in a direction? The ``k`` whose decoder rows have the largest projection onto it.

    A direction may be a token's column of W_U, or the difference of two. Of a set all layers are ranked together; a
    feature that writes at several points counts at each.

    Args:
        dictionary: one, or a set.
        direction: in the space of the points that are written.
        k: how many.
        cosine: divide by the rows' own norms.

    Raises:
        ValueMismatch: the direction has another width than the decoder, or is zero.
    """
    members = dictionary.dictionaries if isinstance(dictionary, DictionarySet) else (dictionary,)
    towards = direction.detach().float().flatten().cpu()
    if not bool(towards.any()):
        raise ValueMismatch("the direction is zero: it points nowhere.")
    towards = towards / towards.norm()
    scores, names = torch.empty(0), []
    for member in members:
        if member.d_out != len(towards):
            raise ValueMismatch(
                f"the direction has {len(towards)} numbers, {member.site_out!r} has {member.d_out}.",
                width=len(towards),
                wanted=member.d_out,
            )
        for begin, rows in row_chunks(member, flat=False):
            rows = rows.unsqueeze(1) if rows.ndim == 2 else rows
            found = (rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-30) if cosine else rows) @ towards
            best = found.flatten().topk(min(k, found.numel()))
            writes = found.shape[1]
            names += [
                f"{member.site_in}#{begin + at // writes}" + (f" > {member.writes[at % writes]}" if writes > 1 else "")
                for at in best.indices.tolist()
            ]
            scores = torch.cat((scores, best.values))
    order = scores.argsort(descending=True, stable=True)[:k]
    coords = {"feature": [names[at] for at in order.tolist()]}
    return Labelled(scores[order], ("feature",), coords=coords, name="cosine" if cosine else "projection")


def row_chunks(dictionary: Dictionary, *, flat: bool = True) -> Iterator[tuple[int, Tensor]]:
    """The decoder's rows, some at a time; those of several writes side by side, or with a dim of their own."""
    for begin in range(0, dictionary.d_sae, CHUNK):
        rows = dictionary.decoder_rows(torch.arange(begin, min(begin + CHUNK, dictionary.d_sae))).float()
        yield begin, rows.flatten(1) if flat else rows


def unit(rows: Float[Tensor, "n *d"]) -> Float[Tensor, "n d"]:
    """Rows of length one; those of several writes are taken together; a dead row stays zero."""
    rows = rows.float().flatten(1)
    scaled: Tensor = rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    return scaled
