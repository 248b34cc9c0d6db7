"""Attribution graphs: which features made which others, from the prompt's tokens to the next token's logits."""

from mi_graphs.attribution import attribution_graph
from mi_graphs.checking import GraphCheck, check_graph
from mi_graphs.exchange import from_circuit_tracer, save_circuit_tracer, to_circuit_tracer
from mi_graphs.graph import AttributionGraph
from mi_graphs.nodes import Node
from mi_graphs.paths import Path

__all__ = [
    "AttributionGraph",
    "GraphCheck",
    "Node",
    "Path",
    "attribution_graph",
    "check_graph",
    "from_circuit_tracer",
    "save_circuit_tracer",
    "to_circuit_tracer",
]
