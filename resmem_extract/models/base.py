"""A network and all that belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..cache import remembered
from ..capture import Capture, ModuleInfo, list_modules, pick_device, prepare
from ..decoding import decode
from ..module_path import ModulePaths
from ..types import EngineName, Preprocessing, Reduction
from ..weights import LocatedWeights
from .checkpoint import state_dict_sha256
from .tokens import token_layout

__all__ = ["Model"]


@dataclass(frozen=True)
class Model:
    """A network with its weights, its own preprocessing and the names of its modules."""

    name: str
    """As on the command line, `resmem` or `torchvision/resnet50@IMAGENET1K_V1`."""
    source: str
    """Where it comes from, `resmem` or `torchvision`."""
    network: nn.Module
    """In evaluation mode."""
    preprocessing: Preprocessing
    weights: LocatedWeights | None = None
    """The checkpoint; None for a network that was filled in some other way."""
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Declared lists of modules, `resnet_layers`."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Declared other names of modules, `memorability`."""
    weights_tag: str = ""
    """Which weights: a tag of the source, `random`, or empty for a file of one's own."""
    seed: int | None = None
    """Where weights are random, the seed that they come from."""
    licence: str = ""
    """Of the weights."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that define the network; empty if it is one's own."""

    @cached_property
    def paths(self) -> ModulePaths:
        """The names of the network's modules."""
        return ModulePaths(self.network, lists=self.lists, aliases=self.aliases, model=self.name)

    @cached_property
    def state_dict_sha256(self) -> str:
        """Hash of all parameters and buffers; see `checkpoint.state_dict_sha256`.

        For a checkpoint in a network that a released package defines it is remembered beside the
        hash of the file.
        """

        def compute() -> str:
            return state_dict_sha256(self.network.state_dict())

        if self.weights is None or not self.packages:
            return compute()
        by = " ".join(f"{name} {version}" for name, version in sorted(self.packages.items()))
        return remembered(f"state dict of {self.name} by {by} from {self.weights.sha256}", compute)

    def adapt(self, reduction: Reduction) -> Reduction:
        """Return a reduction that knows where this network has which tokens."""
        if reduction.tokens == "all":
            return reduction
        return replace(reduction, layout=token_layout(self.network))

    def transform(self, image: Image.Image) -> torch.Tensor:
        """Return what the network is fed for one picture, `[channels, height, width]`.

        A picture that is not RGB is converted as a file would be; see `decoding.decode`.

        Raises
        ------
        ImageError
            If its values have no fixed range.
        """
        prepared = self.preprocessing.image(decode(image))
        return self.preprocessing.batch(np.stack([prepared]))[0]

    def capture(
        self, modules: str | Sequence[str], *, device: str = "cpu", engine: EngineName = "auto"
    ) -> Capture:
        """Return what turns batches of inputs into the activations of modules, in memory.

        Parameters
        ----------
        modules : str or sequence of str
            Module paths, in any form.
        device : str
            `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; the network is moved there.
        engine : {"auto", "graph", "hooks", "reference"}

        Returns
        -------
        Capture
            Called with inputs `[n, ...]`, as `transform` makes them, it returns arrays `[n, ...]`
            by canonical path.

        Raises
        ------
        RequestError
            If there is no such module, or no such device.

        Examples
        --------
        >>> import resmem_extract as rx
        >>> model = rx.load_model("resmem")                               # doctest: +SKIP
        >>> capture = model.capture(["conv1", "memorability"])            # doctest: +SKIP
        >>> capture(model.transform(image)[None])["output"]               # doctest: +SKIP
        """
        texts = [modules] if isinstance(modules, str) else modules
        addresses = [address for text in texts for address in self.paths.resolve(text)]
        where = pick_device(device)
        return prepare(self.network, addresses, self.noise(), device=where, engine=engine)

    def list_modules(self, match: str | None = None) -> list[ModuleInfo]:
        """Return one line for every module, or for those that a path or a glob addresses.

        Raises
        ------
        UnknownModuleError
            If nothing matches.
        """
        addresses = self.paths.addresses() if match is None else self.paths.resolve(match)
        make = self.noise()
        device = next(self.network.parameters(), torch.empty(0)).device
        return list_modules(self.network, addresses, lambda n: make(n).to(device))

    def noise(self) -> Callable[[int], torch.Tensor]:
        """Return a maker of inputs that look like nothing: seeded noise of the right shape.

        Returns
        -------
        callable
            From a number of images to that many inputs; the first ones are always the same.
        """
        grey = self.preprocessing.image(Image.new("RGB", (256, 256), (128, 128, 128)))

        def make(n: int) -> torch.Tensor:
            rng = np.random.default_rng(0)
            shape = (n, *grey.shape)
            if grey.dtype == np.uint8:
                return self.preprocessing.batch(rng.integers(0, 256, shape, dtype=np.uint8))
            return self.preprocessing.batch(rng.standard_normal(shape, dtype=np.float32))

        return make
