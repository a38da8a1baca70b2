"""What a module returns: a tensor, or tensors in nested tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ..path_grammar import Key

__all__ = ["batch_axis", "select", "tensors"]


def tensors(output: Any) -> Iterator[tuple[tuple[Key, ...], torch.Tensor]]:
    """Yield every tensor inside an output with the keys that lead to it, first ones first."""
    if isinstance(output, torch.Tensor):
        yield (), output
    elif isinstance(output, Mapping):
        for key, part in output.items():
            yield from (((key, *keys), tensor) for keys, tensor in tensors(part))
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for i, part in enumerate(output):
            yield from (((i, *keys), tensor) for keys, tensor in tensors(part))


def select(output: Any, keys: tuple[Key, ...]) -> torch.Tensor:
    """Return the tensor that `keys` lead to."""
    for key in keys:
        output = output[key]
    tensor: torch.Tensor = output
    return tensor


def batch_axis(few: Sequence[int], n_few: int, more: Sequence[int], n_more: int) -> int | None:
    """Return the axis that is the batch, from the shapes of one output at two batch sizes.

    One probe cannot tell: 50 tokens look like a batch of 50. Between two batch sizes exactly the
    batch axis changes, and from the one size to the other.

    Returns
    -------
    int or None
        None where no axis, or more than one, behaves as the batch.
    """
    if len(few) != len(more):
        return None
    changed = [axis for axis, sizes in enumerate(zip(few, more, strict=True)) if len({*sizes}) == 2]
    if len(changed) == 1 and (few[changed[0]], more[changed[0]]) == (n_few, n_more):
        return changed[0]
    return None
