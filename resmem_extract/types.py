"""Records that the layers hand to one another. Nothing here imports torch or h5py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from PIL import Image

__all__ = [
    "NO_REDUCTION",
    "ActivationSpec",
    "CompileChoice",
    "Compression",
    "DType",
    "EngineName",
    "IdForm",
    "OnError",
    "Pool",
    "Precision",
    "Preprocessing",
    "Progress",
    "Reduction",
    "TokenLayout",
    "Tokens",
]

Compression = Literal["none", "bitshuffle-lz4"]
EngineName = Literal["auto", "fused", "graph", "hooks", "reference"]
IdForm = Literal["path", "stem"]
OnError = Literal["stop", "skip"]
CompileChoice = Literal["auto", "on", "off"]
Precision = Literal["float32", "bfloat16", "float16", "tf32"]
Progress = Callable[[int, int], None]
"""Told, after each batch, how many images are done and how many there are."""
DType = Literal["float32", "float16"]
Pool = Literal["none", "avg", "max"]
Tokens = Literal["all", "cls", "mean", "cls+mean"]


class Preprocessing(Protocol):
    """From a decoded photograph to what a network is fed, in two steps.

    The first step runs once an image in decoding workers and must not need torch; the second runs
    once a batch, beside the network. What the first returns should be small: bytes where possible.
    """

    def image(self, image: Image.Image) -> npt.NDArray[Any]:
        """Return one RGB photograph as an array; all photographs give the same shape and dtype."""
        ...

    def batch(self, images: npt.NDArray[Any]) -> torch.Tensor:
        """Return the stacked arrays of the first step, `[n, ...]`, as the network's input."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return all that determines the numbers, as JSON values; equal means equal input."""
        ...


@dataclass(frozen=True)
class TokenLayout:
    """Where a transformer has which tokens."""

    prefix: int = 0
    """How many come before the patches: the class token, registers."""
    has_cls: bool = False
    """Whether the first of them is a class token."""
    total: int | None = None
    """How many there are with the patches, if that is known."""


@dataclass(frozen=True)
class Reduction:
    """What is done to each activation before it is stored."""

    pool: Pool = "none"
    """Average or maximum over height and width, or over tokens; vectors stay as they are."""
    flatten: bool = False
    """One vector an image, in C order of the axes."""
    tokens: Tokens = "all"
    """Of activations `[tokens, units]`: the class token, the mean of the patches, or both."""
    layout: TokenLayout = TokenLayout()
    """Of the network's tokens; not part of what is asked."""

    def describe(self) -> dict[str, Any]:
        """Return this record as JSON values (the attribute `reduce` of a data set)."""
        described: dict[str, Any] = {"pool": self.pool, "flatten": self.flatten}
        return described if self.tokens == "all" else {**described, "tokens": self.tokens}


NO_REDUCTION = Reduction()


@dataclass(frozen=True)
class ActivationSpec:
    """One data set of a feature store: whose activations, of what shape, under which names."""

    path: str
    """Canonical module path, `features.layer2.4` or `features.layer1.0.relu@0`."""
    requested: str
    """What the user typed."""
    shape: tuple[int, ...]
    """Shape of one image's activation as stored, without the image axis."""
    axes: tuple[str, ...]
    """Names of all axes, `("image", "channel", "height", "width")`."""
    dtype: DType = "float32"
    index_path: str = ""
    """The same path in child numbers, `features.5.4`."""
    call: int = 0
    """Which call of the module this is."""
    calls: int = 1
    """How often one forward pass calls the module."""
    links: tuple[str, ...] = ()
    """Further names under which the data set is found: what the user typed, if not canonical."""
    names: tuple[str, ...] = ()
    """What the model declares as names of the module: aliases, entries of lists."""
    reduce: Mapping[str, Any] = field(default_factory=lambda: Reduction().describe())

    def __post_init__(self) -> None:
        if len(self.axes) != len(self.shape) + 1:
            n_axes = len(self.shape) + 1
            raise ValueError(f"{self.path}: {len(self.axes)} axis names for {n_axes} axes")

    @property
    def nbytes_per_image(self) -> int:
        """Bytes that one image takes in the store."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize
