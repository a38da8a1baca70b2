"""Capture from a pruned graph: only what the targets depend on is computed.

The network is traced with torch.fx, the graph is cut down to what the targets need, and the cut
graph runs in place of the network. In-place operations make 'need' more than what arguments say:
``relu_(x)`` whose result nobody reads still changes what later readers of ``x`` see. So memory
that nodes may share is followed (`shared_memory`), an in-place operation is kept as long as
something that is kept reads that memory after it, and a target that would be overwritten later is
copied first.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from ..path_grammar import OUTPUT
from .hooks import Target

__all__ = [
    "GraphEngine",
    "NotTraceableError",
    "pruned_graph",
    "returns_fresh_memory",
    "shared_memory",
    "written",
]


class NotTraceableError(Exception):
    """torch.fx cannot follow this network, or follows it otherwise than it runs."""


class GraphEngine:
    """Run only the part of a network that the targets depend on.

    Parameters
    ----------
    network : torch.nn.Module
        Parameters are shared with it, not copied.
    targets : sequence of Target

    Raises
    ------
    NotTraceableError
        If the network cannot be traced, or the trace lacks a target.
    """

    def __init__(self, network: nn.Module, targets: Sequence[Target]) -> None:
        self.network = pruned_graph(network, targets)

    def __call__(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the targets' tensors, in their order."""
        return list(self.network(inputs))


Returned = tuple[Any, fx.Node]
"""What a call of a module returned, and the last node that the call made."""


class _Tracer(fx.Tracer):
    """Records what each call of each module returned, leaf or not."""

    proxy_buffer_attributes = True  # else what a network keeps in a buffer would become a constant

    def __init__(self) -> None:
        super().__init__()
        self.returned: dict[str, list[Returned]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Do not look into attention: its code branches on what proxies do not tell."""
        return isinstance(m, nn.MultiheadAttention) or super().is_leaf_module(
            m, module_qualified_name
        )

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        last = next(iter(reversed(self.graph.nodes)))
        self.returned.setdefault(self.path_of_module(m), []).append((output, last))
        return output


def pruned_graph(network: nn.Module, targets: Sequence[Target]) -> fx.GraphModule:
    """Return a module that computes the targets, a tuple of tensors, and nothing else.

    Raises
    ------
    NotTraceableError
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(network)
    except Exception as error:  # a network's own code may fail in any way when fed proxies
        raise NotTraceableError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    (end,) = (node for node in graph.nodes if node.op == "output")
    returned = {OUTPUT: [(end.args[0], end.prev)]} | tracer.returned
    wanted = [_node_of(graph, returned, target) for target in targets]
    graph.erase_node(end)
    graph.output(tuple(wanted))
    _keep_only_needed(network, graph, wanted)
    graph.lint()
    return fx.GraphModule(network, graph)


def _node_of(graph: fx.Graph, returned: dict[str, list[Returned]], target: Target) -> fx.Node:
    """Return the node that holds a target, adding the look-ups that its keys ask for.

    What counts is the tensor at the end of the call, when a hook would see it: the module may have
    written over it since it made it.
    """
    calls = returned.get(target.module, [])
    if target.call >= len(calls):
        raise NotTraceableError(f"the trace lacks call {target.call} of {target.module}")
    output, last = calls[target.call]
    for key in target.keys:
        if isinstance(output, fx.Proxy | fx.Node):
            with graph.inserting_after(last):
                output = last = graph.call_function(operator.getitem, (_node(output), key))
        else:
            output = output[key]
    if not isinstance(output, fx.Proxy | fx.Node):
        raise NotTraceableError(f"{target.module} returns no tensor in the trace")
    node = _node(output)
    if node is last:
        return node
    with graph.inserting_after(last):
        return graph.call_function(torch.clone, (node,))


def _node(value: fx.Proxy | fx.Node) -> fx.Node:
    return value.node if isinstance(value, fx.Proxy) else value


def _keep_only_needed(network: nn.Module, graph: fx.Graph, wanted: Sequence[fx.Node]) -> None:
    """Erase all nodes that cannot affect the wanted ones; copy those that would be overwritten."""
    memory = shared_memory(network, graph)
    (end,) = (node for node in graph.nodes if node.op == "output")
    needed = set(wanted)
    read_later: set[fx.Node] = set()  # memory that kept nodes read further down
    written_later: set[fx.Node] = set()  # memory that kept nodes write further down
    for node in reversed(graph.nodes):
        if node is end:
            continue
        writes = {memory[source] for source in written(network, node)}
        if node not in needed and not (writes & read_later) and node.op != "placeholder":
            graph.erase_node(node)
            continue
        if node in wanted and memory[node] in written_later:
            _copy_for_output(graph, node, end)
        needed.update(node.all_input_nodes)
        read_later.update(memory[source] for source in node.all_input_nodes)
        written_later |= writes


def _copy_for_output(graph: fx.Graph, node: fx.Node, end: fx.Node) -> None:
    with graph.inserting_after(node):
        copy = graph.call_function(torch.clone, (node,))
    end.replace_input_with(node, copy)


def shared_memory(network: nn.Module, graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Map each node to a representative of all nodes that may share memory with it.

    Only operations known to return fresh memory separate; views, in-place operations, dropout
    in evaluation, look-ups and all that is unknown count as sharing with their inputs.
    """
    parent: dict[fx.Node, fx.Node] = {}

    def root(node: fx.Node) -> fx.Node:
        while parent[node] is not node:
            node = parent[node]
        return node

    attributes: dict[Any, fx.Node] = {}
    for node in graph.nodes:
        parent[node] = attributes.setdefault(node.target, node) if node.op == "get_attr" else node
        if not returns_fresh_memory(network, node):
            for source in node.all_input_nodes:
                parent[root(source)] = root(node)
    return {node: root(node) for node in graph.nodes}


_FRESH_MODULES = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.ReLU,
    nn.ReLU6,
    nn.SiLU,
    nn.Hardswish,
    nn.GELU,
    nn.Sigmoid,
    nn.Softmax,
)
_FRESH_FUNCTIONS = {
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul),
    *(torch.add, torch.mul, torch.matmul, torch.cat, torch.sigmoid, torch.relu, torch.clone),
    *(functional.relu, functional.softmax, functional.gelu, functional.max_pool2d),
}
_WRITING_OPERATORS = {
    *(operator.setitem, operator.delitem, operator.iadd, operator.isub, operator.imul),
    *(operator.itruediv, operator.imatmul, operator.iand, operator.ior, operator.ixor),
}


def returns_fresh_memory(network: nn.Module, node: fx.Node) -> bool:
    """Tell whether what a node returns is known to share memory with none of its inputs."""
    if written(network, node):
        return False
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), _FRESH_MODULES)
    if node.op == "call_function":
        return node.target in _FRESH_FUNCTIONS
    return node.op in ("placeholder", "get_attr")


def written(network: nn.Module, node: fx.Node) -> list[fx.Node]:
    """Return the inputs that a node may write to; all of them where it is not known which."""
    if node.op == "call_module":
        writes = bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
    elif node.op == "call_method":
        name = str(node.target)
        writes = name.startswith("__i") or name == "__setitem__" or _ends_in_place(name)
    elif node.op == "call_function":
        writes = node.target in _WRITING_OPERATORS or _asked_in_place(node)
    else:
        writes = False
    return node.all_input_nodes if writes else []


def _ends_in_place(name: str) -> bool:
    """Tell whether a name follows torch's convention for in-place functions, ``relu_``."""
    return name.endswith("_") and not name.endswith("__")


def _asked_in_place(node: fx.Node) -> bool:
    """Tell whether a function is in place by its name, by ``inplace=True`` or by ``out=``."""
    function: Any = node.target
    if _ends_in_place(getattr(function, "__name__", "")) or node.kwargs.get("out") is not None:
        return True
    try:
        bound = inspect.signature(function).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # built-ins have no signature; theirs is the name or `out`
        return bool(node.kwargs.get("inplace", False))
    return bool(bound.arguments.get("inplace", False) or node.kwargs.get("inplace", False))
