"""Capture from a pruned graph whose convolutions do what follows them as well.

In evaluation mode a batch norm only scales and shifts, which the weights of the convolution before
it can bear; the sum of a residual block and the activation function can be done on what a
convolution returns before it leaves the registers. On a processor oneDNN has all of it in one
operation, on weights laid out beforehand. Compiled code calls these same operations; called from
here they need no compiling, and they release Python's lock, so that several batches go side by
side. Elsewhere batch norms are folded, and the rest follows by operations of its own.

A convolution takes in what follows it only where nobody can tell: everything between has one
reader, is no target, and what the convolution reads is not written to in the meantime.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from .fused_conv import ACTIVATIONS, Activation, Norm, OneDNNConv, PlainConv, folded
from .graph import GraphEngine, returns_fresh_memory, shared_memory, written

__all__ = ["FusedEngine", "NothingToFuseError", "graph_of"]


class NothingToFuseError(Exception):
    """The graph has no convolution that could be replaced."""


class FusedEngine:
    """Run a pruned graph with its convolutions replaced by ones that do more.

    Parameters
    ----------
    graph : GraphEngine
        Stays as it is. What is folded or laid out anew is a copy of the weights as they are now.
    dtype : torch.dtype
        Of the convolutions; all else follows autocast.
    onednn : bool
        Whether the convolutions are oneDNN's (see `has_onednn`), or torch's own.

    Raises
    ------
    NothingToFuseError
    """

    def __init__(self, graph: GraphEngine, dtype: torch.dtype, *, onednn: bool) -> None:
        self.graph = graph
        self.network = _fused_graph(graph.network, dtype, OneDNNConv if onednn else PlainConv)

    def __call__(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the targets' tensors, in their order; to be called in inference mode."""
        return list(self.network(inputs))


def graph_of(run: object) -> GraphEngine | None:
    """Return the pruned graph behind an engine, before anything is fused; None without one."""
    if isinstance(run, FusedEngine):
        return run.graph
    return run if isinstance(run, GraphEngine) else None


@dataclass(frozen=True)
class _Chain:
    """A convolution and the nodes that it takes in; it stands where the last of them stood."""

    conv: fx.Node
    norm: fx.Node | None = None
    add: fx.Node | None = None
    activation: fx.Node | None = None

    @property
    def nodes(self) -> list[fx.Node]:
        """All nodes of the chain, in their order."""
        return [n for n in (self.conv, self.norm, self.add, self.activation) if n is not None]

    @property
    def reads(self) -> list[fx.Node]:
        """What comes in from outside: the convolution's input, then what is added."""
        own = self.conv if self.norm is None else self.norm
        others = [] if self.add is None else [n for n in self.add.all_input_nodes if n is not own]
        return [*self.conv.all_input_nodes, *others]


def _fused_graph(
    network: fx.GraphModule, dtype: torch.dtype, kind: type[PlainConv]
) -> fx.GraphModule:
    """Return a copy of a graph with fused convolutions; all other modules are shared with it."""
    fused = fx.GraphModule(network, copy.deepcopy(network.graph))
    _drop_identities(fused)
    chains = _find_chains(fused)
    if not chains:
        raise NothingToFuseError("no convolution that could take in what follows it")
    may_overwrite = _may_overwrite(fused, chains)
    for number, chain in enumerate(chains):
        conv: Any = fused.get_submodule(str(chain.conv.target))
        norm = _norm(fused, chain.norm) if chain.norm else None
        activation = _activation(fused, chain.activation) if chain.activation else None
        weight, bias = (tensor.to(dtype) for tensor in folded(conv, norm))
        module = kind(conv, weight, bias, activation)
        if isinstance(module, OneDNNConv):
            module.onto_other = chain in may_overwrite
        name = f"_fused_{number}_{chain.conv.name}"
        fused.add_submodule(name, module)
        last = chain.nodes[-1]
        with fused.graph.inserting_before(last):
            last.replace_all_uses_with(fused.graph.call_module(name, tuple(chain.reads)))
        for node in reversed(chain.nodes):
            fused.graph.erase_node(node)
    for node in [node for node in fused.graph.nodes if node.op == "get_attr" and not node.users]:
        fused.graph.erase_node(node)  # of norms
    fused.delete_all_unused_submodules()
    fused.graph.lint()
    fused.recompile()
    return fused


def _find_chains(network: fx.GraphModule) -> list[_Chain]:
    """Return all convolutions that can be replaced, each with what it can take in."""
    nodes = list(network.graph.nodes)
    position = {node: i for i, node in enumerate(nodes)}
    memory = shared_memory(network, network.graph)

    def overtakes_a_write(chain: _Chain) -> bool:
        """Tell whether something is written that the chain, which runs at its end, reads."""
        own = chain.nodes
        between = nodes[position[own[0]] : position[own[-1]]]
        reads = {memory[node] for node in chain.reads}
        return any(
            memory[target] in reads
            for node in between
            if node not in own
            for target in written(network, node)
        )

    chains: list[_Chain] = []
    taken: set[fx.Node] = set()
    for node in nodes:
        if _is_conv(network, node):
            prefixes = _prefixes(network, node, taken)
            chain = next(chain for chain in prefixes if not overtakes_a_write(chain))
            taken.update(chain.nodes)
            chains.append(chain)
    return chains


def _prefixes(network: nn.Module, conv: fx.Node, taken: set[fx.Node]) -> Iterable[_Chain]:
    """Return the chains that begin with a convolution, the longest first."""
    found = [_Chain(conv)]
    reader = _only_reader(conv)
    if reader and reader.args[0] is conv and _norm(network, reader):
        found.append(replace(found[-1], norm=reader))
        reader = _only_reader(reader)
    if reader and _is_sum_of_two(reader) and reader not in taken:
        found.append(replace(found[-1], add=reader))
        reader = _only_reader(reader)
    if reader and _activation(network, reader):
        found.append(replace(found[-1], activation=reader))
    return reversed(found)


def _may_overwrite(network: fx.GraphModule, chains: list[_Chain]) -> set[_Chain]:
    """Return the chains that may leave their sum in the memory of what is added.

    That memory has to be fresh, known under no other name, and read by nobody later.
    """
    nodes = list(network.graph.nodes)
    runs_at = {node: i for i, node in enumerate(nodes)}
    made_by = {chain.nodes[-1]: chain for chain in chains}
    for chain in chains:
        runs_at.update(dict.fromkeys(chain.nodes, runs_at[chain.nodes[-1]]))
    memory = shared_memory(network, network.graph)
    found = set()
    for chain in chains:
        if chain.add is None:
            continue
        other = chain.reads[1]
        names = set(made_by[other].nodes) if other in made_by else {other}
        fresh = other in made_by or (
            other.op.startswith("call") and returns_fresh_memory(network, other)
        )
        if (
            fresh
            and names.issuperset(node for node in nodes if memory[node] is memory[other])
            and all(user is chain.add or runs_at[user] < runs_at[chain.add] for user in other.users)
        ):
            found.add(chain)
    return found


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_conv(network: nn.Module, node: fx.Node) -> bool:
    conv = _module(network, node)
    return (
        type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.weight.dtype == torch.float32
    )


def _norm(network: nn.Module, node: fx.Node) -> Norm | None:
    """Return the batch norm that a node is, if it goes by what it has learnt, not by the batch."""
    norm = _module(network, node)
    if type(norm) is nn.BatchNorm2d:
        mean, variance = norm.running_mean, norm.running_var
        if norm.training or mean is None or variance is None:
            return None
        return Norm(mean, variance, norm.weight, norm.bias, norm.eps)
    if node.op != "call_function" or node.target is not functional.batch_norm:
        return None
    bound = inspect.signature(functional.batch_norm).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    given = bound.arguments
    mean, variance, weight, bias = (
        _attribute(network, given[name])
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    if given["training"] or mean is None or variance is None:
        return None
    if (weight is None) != (given["weight"] is None) or (bias is None) != (given["bias"] is None):
        return None
    return Norm(mean, variance, weight, bias, given["eps"])


def _attribute(network: nn.Module, value: object) -> torch.Tensor | None:
    """Return the parameter or buffer that a node looks up, if that is what it does."""
    if not isinstance(value, fx.Node) or value.op != "get_attr":
        return None
    owner, _, name = str(value.target).rpartition(".")
    tensor = getattr(network.get_submodule(owner), name)
    return tensor if isinstance(tensor, torch.Tensor) else None


def _is_sum_of_two(node: fx.Node) -> bool:
    return (
        node.op == "call_function"
        and node.target in (operator.add, torch.add)
        and not node.kwargs
        and len(node.args) == len(node.all_input_nodes) == 2
    )


_FUNCTIONS: dict[Any, type[nn.Module]] = {
    functional.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    functional.relu6: nn.ReLU6,
    functional.silu: nn.SiLU,
    functional.hardswish: nn.Hardswish,
}


def _activation(network: nn.Module, node: fx.Node) -> Activation | None:
    """Return the activation function that a node is, if a convolution can do it."""
    if node.op == "call_function" and node.target in _FUNCTIONS:
        return ACTIVATIONS[_FUNCTIONS[node.target]]
    if node.op == "call_method" and node.target in ("relu", "relu_"):
        return ACTIVATIONS[nn.ReLU]
    return ACTIVATIONS.get(type(_module(network, node)))  # type: ignore[arg-type]


def _drop_identities(network: fx.GraphModule) -> None:
    """Take what returns its input out of a graph, so that it parts no convolution from its norm."""
    for node in list(network.graph.nodes):
        module = _module(network, node)
        if type(module) is nn.Identity or (type(module) is nn.Dropout and not module.training):
            node.replace_all_uses_with(node.all_input_nodes[0])
            network.graph.erase_node(node)


def _module(network: nn.Module, node: fx.Node) -> nn.Module | None:
    """Return the module of a plain call, one that has one input and no hooks."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    module = network.get_submodule(str(node.target))
    hooked = module._forward_hooks or module._forward_pre_hooks
    return None if hooked else module
