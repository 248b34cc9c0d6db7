"""A call as a graph: what is computed from some tensors, with everything else as constants.

PyTorch's own tracers record every operation; here those that no input reaches are done once, while tracing, so that
Python may look at them: lengths, masks, which entries a selector stands for.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["NotAGraph", "graph_of"]

READS: Final = {
    torch.Tensor.tolist,
    torch.Tensor.numpy,
    torch.Tensor.item,
    torch.Tensor.__bool__,
    torch.Tensor.__int__,
    torch.Tensor.__float__,
    torch.Tensor.__index__,
    torch.Tensor.__array__,
}
"""How Python reads numbers out of a tensor."""


class NotAGraph(Exception):  # a reason, told by who asked for the graph
    """The call is more than a graph of the input; the message says why."""


def graph_of(
    call: Callable[..., Sequence[Tensor]], *inputs: Tensor, own: Sequence[Tensor] = ()
) -> torch.fx.GraphModule:
    """The operations that lead from ``inputs`` to what ``call`` returns; weights and constants are its attributes.

    So are the tensors that it calls its ``own``, which it may write: each call finds what the one before has left.

    >>> graph_of(lambda x: [x * torch.arange(3)], torch.ones(3))(torch.tensor([1, 2, 3]))
    [tensor([0, 2, 6])]
    >>> total = torch.zeros(())
    >>> count = graph_of(lambda x: [total.add_(x).clone()], torch.ones(()), own=[total])
    >>> count(torch.tensor(2.0)), count(torch.tensor(3.0))
    ([tensor(3.)], [tensor(6.)])

    Raises:
        NotAGraph: Python looks at numbers that are computed from these, or random numbers are drawn.
    """
    tracer = Tracer(inputs, own)
    with torch.no_grad(), Watch(tracer), tracer:
        outputs = call(*inputs)
    return tracer.finished(list(outputs))


class Watch(TorchFunctionMode):
    """Refuses that Python reads what the input reaches."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in READS and args and self.tracer.reached(args[0]):
            raise NotAGraph("it decides by the numbers that it computes")
        return func(*args, **(kwargs or {}))


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations that an input reaches, and does all others."""

    def __init__(self, inputs: Sequence[Tensor], own: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = torch.fx.Graph()
        self.root = torch.nn.Module()
        self.device = inputs[0].device
        self.nodes: Any = WeakIdKeyDictionary()
        for at, x in enumerate(inputs):
            self.nodes[x] = self.graph.placeholder(f"x{at}")
        for at, x in enumerate(own):
            self.root.register_buffer(f"own_{at}", x, persistent=False)
            self.nodes[x] = self.graph.get_attr(f"own_{at}")
        self.constants: Any = WeakIdKeyDictionary()
        self.kept: list[Tensor] = [*inputs, *own]
        """Alive until the graph is done, so that no other tensor takes the place of one that was seen."""

    def reached(self, value: object) -> bool:
        """Whether a value is a tensor that is computed from an input."""
        return isinstance(value, Tensor) and value in self.nodes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        values, _ = tree_flatten((args, kwargs))
        if torch.Tag.nondeterministic_seeded in func.tags and not quiet(func, args, kwargs):
            raise NotAGraph("it draws random numbers, which a graph would draw once for ever")
        if not any(self.reached(value) for value in values):
            return func(*args, **kwargs)
        if torch.Tag.data_dependent_output in func.tags or self._has_a_size_of_its_own(func, args):
            raise NotAGraph("it decides by the numbers that it computes")
        self._refuse_writes_to_constants(func, args)
        node_args, node_kwargs = tree_map_only(Tensor, self._node, (tuple(args), dict(kwargs)))
        node = self.graph.call_function(func, node_args, node_kwargs)
        result = func(*args, **kwargs)
        self._name(result, node)
        return result

    def _has_a_size_of_its_own(self, func: Any, args: Sequence[Any]) -> bool:
        """Whether the size of the result depends on numbers that are computed."""
        if func is torch.ops.aten.index.Tensor:  # by masks it does
            return any(self.reached(index) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        return torch.Tag.dynamic_output_shape in func.tags

    def _refuse_writes_to_constants(self, func: Any, args: Sequence[Any]) -> None:
        for argument, value in zip(func._schema.arguments, args, strict=False):
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and isinstance(value, Tensor) and not self.reached(value):
                raise NotAGraph("it writes numbers that it computes into a tensor that is always the same")

    def _node(self, value: Tensor) -> torch.fx.Node:
        if value in self.nodes:
            found: torch.fx.Node = self.nodes[value]
            return found
        if value not in self.constants:
            name = f"constant_{len(self.kept)}"
            # numbers that Python wrote are on the host, where a replay on another device cannot read them
            kept = value.detach() if value.ndim else value.detach().to(self.device)
            self.root.register_buffer(name, kept, persistent=False)
            self.constants[value] = self.graph.get_attr(name)
            self.kept.append(value)
        constant: torch.fx.Node = self.constants[value]
        return constant

    def _name(self, result: Any, node: torch.fx.Node) -> None:
        """Say which node each tensor of a result is."""
        if isinstance(result, Tensor):
            self.nodes[result] = node
            self.kept.append(result)
        elif isinstance(result, tuple | list):
            for index, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._name(part, self.graph.call_function(operator.getitem, (node, index)))

    def finished(self, outputs: list[Tensor]) -> torch.fx.GraphModule:
        """The graph with these outputs, without operations that none of them needs."""
        self.graph.output([self._node(output) for output in outputs])
        self.graph.eliminate_dead_code(is_impure_node=writes)
        self.graph.lint()
        self.kept.clear()
        return torch.fx.GraphModule(self.root, self.graph)


def quiet(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation that may draw random numbers draws none here: attention without dropout."""
    named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | dict(kwargs)
    return "dropout_p" in {argument.name for argument in func._schema.arguments} and not named.get("dropout_p", 0.0)


def writes(node: torch.fx.Node) -> bool:
    """Whether a node changes a tensor in place, or is an end of the graph."""
    if node.op != "call_function":
        return node.op in ("placeholder", "output")
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable
