"""What a source of networks is, and the records that sources and the registry exchange. No torch.

A source is one file behind the narrow `Source` Protocol. The registry does everything that sources
share: names, weights tags, finding and fetching files, own preprocessing, seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from ..weights import LocatedWeights, WeightsFile

if TYPE_CHECKING:
    from torch import nn

    from ..types import Preprocessing

__all__ = ["Init", "ModelEntry", "Parts", "Source", "SourceEntry", "Wanted"]

Init = Literal["pretrained", "random", "none"]
"""What a network is filled with; `none` is for listing its modules, and it may lie on meta."""


@dataclass(frozen=True)
class ModelEntry:
    """One network of a source."""

    name: str
    """As on the command line, `torchvision/resnet50` or `resmem`."""
    source: str
    weights: Mapping[str, WeightsFile] = field(default_factory=dict)
    """The released checkpoints by their tags, the default first; empty: it has none."""
    description: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Tags of checkpoints that it must not be filled with, and why, as the end of a message."""
    needs_trust: bool = False
    """Whether loading runs code that is downloaded, which users have to allow."""
    fetches: bool = False
    """Whether the source's own library fetches the weights, from where no record tells."""


@dataclass(frozen=True)
class Wanted:
    """Which network a source is to make, everything about weights being settled."""

    entry: ModelEntry
    init: Init
    tag: str = ""
    """Which of `ModelEntry.weights`; empty without any."""
    file: LocatedWeights | None = None
    """What to fill the network with, where `init` is `pretrained` and there is a file."""
    trust: bool = False
    """Whether code from elsewhere may run."""

    @property
    def short(self) -> str:
        """The name within the source, `resnet50`."""
        return self.entry.name.removeprefix(f"{self.entry.source}/")


@dataclass(frozen=True)
class Parts:
    """What a source makes of a request: see `Source`."""

    network: nn.Module
    """In evaluation mode."""
    preprocessing: Preprocessing | None
    """The network's own; None where only the user can say what it is."""
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Declared lists of modules, `resnet_layers`."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Declared other names of modules, `memorability`."""


class Source(Protocol):
    """Networks of one origin.

    Implementations import their library inside the methods or at the top of their own file, which
    the registry imports only when the source is used. They never print, never choose a seed (the
    registry has set one) and never download, but for entries that say so (`needs_trust` or
    `fetches`): `Wanted.file` is there when `load` is called.
    """

    def entries(self) -> Sequence[ModelEntry]:
        """Return every network, in the order in which they are to be listed."""
        ...

    def load(self, wanted: Wanted) -> Parts:
        """Return a network in evaluation mode, filled as `wanted` says, with what belongs to it.

        With ``init="random"`` it is as its constructor leaves it; with ``init="none"`` only its
        modules count, and it may lie on the meta device.

        Raises
        ------
        WeightsError
            If the file does not fit the network.
        """
        ...


@dataclass(frozen=True)
class SourceEntry:
    """One line of the registry: where a source is defined and what it needs, nothing imported."""

    name: str
    """The first part of the names of its models."""
    loader: str
    """Module and object that is the `Source`, ``package.module:object``."""
    description: str
    packages: Sequence[str] = ()
    """Distributions that have to be installed, and whose versions decide what there is."""
    extra: str = ""
    """Extra of this package that installs them."""
    docs: str = ""
    """Where its networks are documented."""
