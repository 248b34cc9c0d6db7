"""What writes in a replacement model: active features, what the transcoders miss, and the embeddings of tokens."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_core.budget import free_bytes
from mi_core.errors import InputError
from mi_graphs.nodes import ERROR, FEATURE, TOKEN, Node
from mi_graphs.replacement import EMBED, LocalReplacement

__all__ = ["Sources"]


@dataclass(frozen=True, eq=False)
class Sources:
    """Everything that writes, in the order of a graph: features by layer, position and number, errors, tokens."""

    layer: Int[Tensor, "active"]
    pos: Int[Tensor, "active"]
    feature: Int[Tensor, "active"]
    value: Float[Tensor, "active"]
    writes: tuple[Float[Tensor, "own write d"], ...]
    """What each active feature of a layer writes to each layer in ``targets``; one for each layer with a transcoder."""
    targets: tuple[tuple[int, ...], ...]
    """Where: counted among the layers with an MLP."""
    blocks: tuple[tuple[int, int, int, int], ...]
    """Features that stand together: number of their ``writes``, position, first and one behind the last of them all."""
    starts: tuple[int, ...]
    """The first feature of each of ``writes``."""
    errors: Float[Tensor, "layer pos d"]
    """What stands at each MLP's output beyond the reconstruction."""
    tokens: Float[Tensor, "pos d"]
    layers: tuple[int, ...]
    """The layers with an MLP."""

    @classmethod
    def of(cls, replacement: LocalReplacement, skipped: Collection[int]) -> Sources:
        """What writes in a clean run; at skipped positions only the embedding does.

        Raises:
            InputError: there are more active features than the memory has room for; the message says how much.
        """
        held = replacement.transcoders
        layers, device = tuple(held.outputs), replacement.model.device
        found, left = encoded(replacement, skipped)
        check_room(replacement, found)
        writes = tuple(
            scaled(member, active).to(device) for member, active in zip(held.by_layer.values(), found, strict=True)
        )
        errors = torch.stack([left[layer] for layer in layers])
        errors[:, sorted(skipped)] = 0
        counts = [len(active.values) for active in found]
        return cls(
            layer=torch.cat([torch.full((n,), layer) for layer, n in zip(held.by_layer, counts, strict=True)]),
            pos=torch.cat([active.pos.cpu() for active in found]),
            feature=torch.cat([active.feature.cpu() for active in found]),
            value=torch.cat([active.values.cpu() for active in found]),
            writes=writes,
            targets=tuple(tuple(layers.index(at) for at in held.written(layer)) for layer in held.by_layer),
            blocks=blocks([active.pos for active in found]),
            starts=tuple(sum(counts[:number]) for number in range(len(counts))),
            errors=errors,
            tokens=replacement.clean[EMBED][0].float(),
            layers=layers,
        )

    @property
    def n_features(self) -> int:
        """How many features are active."""
        return len(self.value)

    def __len__(self) -> int:
        return self.n_features + (len(self.layers) + 1) * len(self.tokens)

    def nodes(self, ids: tuple[int, ...]) -> list[Node]:
        """The node of each."""
        places = zip(self.layer.tolist(), self.pos.tolist(), self.feature.tolist(), strict=True)
        found = [Node(FEATURE, layer, pos, feature) for layer, pos, feature in places]
        found += [Node(ERROR, layer, pos) for layer in self.layers for pos in range(len(ids))]
        return found + [Node(TOKEN, -1, pos, token) for pos, token in enumerate(ids)]

    def contributions(
        self, outputs: Float[Tensor, "row pos layer d"], embed: Float[Tensor, "row pos d"]
    ) -> Float[Tensor, "row source"]:
        """What each source contributes to each row, by the gradients at the MLPs' outputs and at the embedding."""
        features = outputs.new_zeros(len(outputs), self.n_features)
        for number, pos, first, end in self.blocks:
            start = self.starts[number]
            there = outputs[:, pos, list(self.targets[number])].flatten(1)
            features[:, first:end] = there @ self.writes[number][first - start : end - start].flatten(1).T
        errors = torch.einsum("bpld,lpd->blp", outputs, self.errors.to(outputs)).flatten(1)
        tokens = torch.einsum("bpd,pd->bp", embed, self.tokens.to(embed))
        return torch.cat([features, errors, tokens], 1)


class Active(NamedTuple):
    """What is active in one layer, by position, then number."""

    pos: Int[Tensor, "own"]
    feature: Int[Tensor, "own"]
    values: Float[Tensor, "own"]


def encoded(replacement: LocalReplacement, skipped: Collection[int]) -> tuple[list[Active], dict[int, Tensor]]:
    """What is active in each layer with a transcoder, and what all transcoders together miss in each with an MLP."""
    held = replacement.transcoders
    left = {layer: replacement.clean[point][0].float() for layer, point in held.outputs.items()}
    found = []
    for layer in held.by_layer:
        member: Any = held.by_layer[layer]
        x = replacement.read(layer)
        features = member.encode(x, sparse=True)
        recons = member.decode(features)
        if held.skips(layer):
            recons = recons + member.skip(x)
        shares = [recons] if len(member.writes) == 1 else recons.unbind(-2)
        for at, share in zip(held.written(layer), shares, strict=True):
            left[at] = left[at] - share[0].float().to(left[at].device)
        token, index, values = features.sparse().rows()
        kept = ~torch.isin(token, torch.tensor(sorted(skipped), device=token.device)) & (values != 0)
        found.append(Active(token[kept], index[kept], values[kept].float()))
    return found, left


def scaled(member: Any, active: Active) -> Float[Tensor, "own write d"]:
    """What active features write: their values times the rows of the decoder."""
    rows = member.decoder_rows(active.feature).float()
    written: Tensor = active.values[:, None, None] * rows.reshape(len(rows), len(member.writes), member.d_out)
    return written


def blocks(positions: list[Int[Tensor, "own"]]) -> tuple[tuple[int, int, int, int], ...]:
    """Runs of features of one layer and position."""
    found, first = [], 0
    for number, own in enumerate(positions):
        there, counts = torch.unique(own, return_counts=True)
        for pos, count in zip(there.tolist(), counts.tolist(), strict=True):
            found.append((number, pos, first, first + count))
            first += count
    return tuple(found)


def check_room(replacement: LocalReplacement, found: list[Active]) -> None:
    """Refuse, before they are read, more rows of decoders than the memory has room for."""
    members = replacement.transcoders.by_layer.values()
    numbers = sum(
        len(active.values) * len(member.writes) * member.d_out for active, member in zip(found, members, strict=True)
    )
    free = free_bytes(replacement.model.device)
    if 4 * numbers > free:
        active = sum(len(each.values) for each in found)
        raise InputError(
            f"{active:,} features are active at the {replacement.n_pos} tokens of the prompt; what they write takes "
            f"{4 * numbers / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free. Give a shorter prompt or sparser "
            "transcoders.",
            active=active,
        )
