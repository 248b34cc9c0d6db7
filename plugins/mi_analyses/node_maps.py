"""Numbers of nodes as heat maps: heads by layer and head, the other nodes in a row."""

from __future__ import annotations

import torch

from mi_analyses.graph_names import Node
from mi_analyses.heat_view import Map
from mi_core.labelled import Labelled

__all__ = ["node_maps"]


def node_maps(heading: str, array: Labelled, note: str = "", dim: str = "sender") -> list[Map]:
    """One map of the heads (empty where a head is not among the nodes), and one of all other nodes.

    >>> from mi_core.labelled import Labelled
    >>> effects = Labelled(torch.tensor([0.1, 0.2, 0.3]), ("sender",), {"sender": ("L0H1", "mlp 0", "L1H0")})
    >>> [(one.heading, one.array.dims, tuple(one.array.shape)) for one in node_maps("effect", effects)]
    [('effect of heads', ('layer', 'head'), (2, 2)), ('effect of other nodes', ('sender',), (1,))]
    """
    nodes = [Node.parse(str(label)) for label in array.coords[dim]]
    rest = tuple(other for other in array.dims if other != dim)
    values = array.values.movedim(array.dims.index(dim), -1)
    coords = {other: array.coords[other] for other in rest}
    heads = [place for place, node in enumerate(nodes) if node.kind == "head"]
    others = [place for place, node in enumerate(nodes) if node.kind != "head"]
    found = []
    if heads:
        layers = sorted({nodes[place].layer for place in heads})
        width = 1 + max(nodes[place].head for place in heads)
        square = values.new_full((*values.shape[:-1], len(layers), width), torch.nan)
        for place in heads:
            square[..., layers.index(nodes[place].layer), nodes[place].head] = values[..., place]
        own = Labelled(square, (*rest, "layer", "head"), {**coords, "layer": tuple(layers)}, array.name, array.unit)
        found.append(Map(f"{heading} of heads" if others else heading, own, note))
    if others:
        labels = tuple(str(nodes[place]) for place in others)
        row = Labelled(values[..., others], (*rest, dim), {**coords, dim: labels}, array.name, array.unit)
        found.append(Map(f"{heading} of other nodes" if heads else heading, row, "" if heads else note))
    return found
