"""Capture from a pruned graph whose convolutions do what follows them as well.

In evaluation mode a batch norm only scales and shifts, which the weights of the convolution before
it can bear; the sum of a residual block and a ReLU can be done on what a convolution returns before
it leaves the registers. On a processor oneDNN has all of it in one operation, on weights laid out
beforehand. Compiled code calls these same operations; called from here they need no compiling, and
they release Python's lock, so that several batches go side by side. Elsewhere batch norms are
folded, and the rest follows by operations of its own.

A convolution takes in what follows it only where nobody can tell: everything between has one
reader, is no target, and what the convolution reads is not written to in the meantime.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from .fused_conv import OneDNNConv, PlainConv, folded
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

    @property
    def share(self) -> float:
        """Share of fused convolutions among all that is called."""
        fused = sum(isinstance(module, PlainConv) for module in self.network.modules())
        calls = sum(1 for node in self.network.graph.nodes if node.op.startswith("call"))
        return fused / calls


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
    relu: fx.Node | None = None

    @property
    def nodes(self) -> list[fx.Node]:
        """All nodes of the chain, in their order."""
        return [n for n in (self.conv, self.norm, self.add, self.relu) if n is not None]

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
    chains = _find_chains(fused)
    if not chains:
        raise NothingToFuseError("no convolution that could take in what follows it")
    may_overwrite = _may_overwrite(fused, chains)
    for number, chain in enumerate(chains):
        conv: Any = fused.get_submodule(str(chain.conv.target))
        norm: Any = None if chain.norm is None else fused.get_submodule(str(chain.norm.target))
        weight, bias = (tensor.to(dtype) for tensor in folded(conv, norm))
        module = kind(conv, weight, bias, relu=chain.relu is not None)
        if isinstance(module, OneDNNConv):
            module.onto_other = chain in may_overwrite
        name = f"_fused_{number}"
        fused.add_submodule(name, module)
        last = chain.nodes[-1]
        with fused.graph.inserting_before(last):
            last.replace_all_uses_with(fused.graph.call_module(name, tuple(chain.reads)))
        for node in reversed(chain.nodes):
            fused.graph.erase_node(node)
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
    if reader and _is_norm(network, reader):
        found.append(replace(found[-1], norm=reader))
        reader = _only_reader(reader)
    if reader and _is_sum_of_two(reader) and reader not in taken:
        found.append(replace(found[-1], add=reader))
        reader = _only_reader(reader)
    if reader and _is_relu(network, reader):
        found.append(replace(found[-1], relu=reader))
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


def _is_norm(network: nn.Module, node: fx.Node) -> bool:
    """Tell whether a node is a batch norm that goes by what it has learnt, not by the batch."""
    norm = _module(network, node)
    return (
        type(norm) is nn.BatchNorm2d
        and not norm.training
        and norm.running_mean is not None
        and norm.running_var is not None
    )


def _is_sum_of_two(node: fx.Node) -> bool:
    return (
        node.op == "call_function"
        and node.target in (operator.add, torch.add)
        and not node.kwargs
        and len(node.args) == len(node.all_input_nodes) == 2
    )


def _is_relu(network: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_function":
        return node.target in (functional.relu, torch.relu)
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return type(_module(network, node)) is nn.ReLU


def _module(network: nn.Module, node: fx.Node) -> nn.Module | None:
    """Return the module of a plain call, one that has one input and no hooks."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    module = network.get_submodule(str(node.target))
    hooked = module._forward_hooks or module._forward_pre_hooks
    return None if hooked else module
