"""ResMem (Needell & Bainbridge 2022) predicts how memorable an image is.

A ResNet-152 and an AlexNet-like branch see the same 227 x 227 pixels; a stack of fully connected
layers turns both into a predicted memorability between 0 and 1.
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
from .resnet import ResNet

__all__ = ["RELEASED", "SOURCE", "ResMem"]

RELEASED = WeightsFile(
    name="resmem",
    sha256="8e4b8ab0ac338909add68a674e9bd4c1602350731abe7f97bc060dc159706a53",
    size=527_697_574,
    distribution="resmem",
    member="resmem/model.pt",
    licence="non-commercial (University of Chicago)",
    hint="run ./get_weights.sh or: pip install resmem",
    variable_names_file=True,
)


class ResMem(nn.Module):
    """The network of the released weights, whose state-dict keys it has.

    ReLUs and the sigmoid, functional in the original, are named modules here, so that what comes
    out of them can be captured. `drp7` is in the checkpoint's definition but is never called.

    Parameters
    ----------
    features : torch.nn.Module, optional
        What sees the image beside the AlexNet-like branch; by default a ResNet-152.
    n_features : int
        How many numbers it gives for an image.
    """

    def __init__(self, features: nn.Module | None = None, n_features: int = 1000) -> None:
        super().__init__()
        self.features = ResNet((3, 8, 36, 3)) if features is None else features
        self.conv1 = nn.Conv2d(3, 48, 11, 4)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(3, 2)
        self.lrn1 = nn.LocalResponseNorm(5)
        self.conv2 = nn.Conv2d(48, 256, 5, padding=2, groups=2)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(3, 2)
        self.lrn2 = nn.LocalResponseNorm(5)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1, groups=2)
        self.relu3 = nn.ReLU()
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.relu4 = nn.ReLU()
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.relu5 = nn.ReLU()
        self.pool5 = nn.MaxPool2d(3, 2)
        self.fc6 = nn.Linear(9216 + n_features, 4096)
        self.relu6 = nn.ReLU()
        self.drp6 = nn.Dropout(0.5)
        self.fc7 = nn.Linear(4096, 4096)
        self.relu7 = nn.ReLU()
        self.drp7 = nn.Dropout(0.5)
        self.fc8 = nn.Linear(4096, 2048)
        self.relu8 = nn.ReLU()
        self.drp8 = nn.Dropout(0.5)
        self.fc9 = nn.Linear(2048, 1024)
        self.relu9 = nn.ReLU()
        self.fc10 = nn.Linear(1024, 512)
        self.relu10 = nn.ReLU()
        self.fc11 = nn.Linear(512, 256)
        self.relu11 = nn.ReLU()
        self.fc12 = nn.Linear(256, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images `[n, 3, 227, 227]` with values in 0..1 to memorability `[n, 1]`."""
        branch = self.lrn1(self.pool1(self.relu1(self.conv1(x))))
        branch = self.lrn2(self.pool2(self.relu2(self.conv2(branch))))
        branch = self.relu3(self.conv3(branch))
        branch = self.relu4(self.conv4(branch))
        branch = self.pool5(self.relu5(self.conv5(branch)))
        features = torch.flatten(self.features(x), 1)
        hidden = torch.cat((torch.flatten(branch, 1), features), 1)
        hidden = self.drp6(self.relu6(self.fc6(hidden)))
        hidden = self.drp8(self.relu7(self.fc7(hidden)))
        hidden = self._before_fc9(self.relu8(self.fc8(hidden)))
        hidden = self.relu9(self.fc9(hidden))
        hidden = self.relu10(self.fc10(hidden))
        hidden = self.relu11(self.fc11(hidden))
        memorability: torch.Tensor = self.sigmoid(self.fc12(hidden))
        return memorability

    def _before_fc9(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return what `fc9` sees of what `fc8` gives."""
        return hidden


class _Source:
    """The one network of this file."""

    def entries(self) -> Sequence[ModelEntry]:
        """Return ResMem."""
        about = "memorability of an image (Needell & Bainbridge 2022)"
        return [ModelEntry("resmem", "resmem", {"released": RELEASED}, about)]

    def load(self, wanted: Wanted) -> Parts:
        """Return ResMem, filled as asked."""
        network = make(ResMem, wanted)
        convolutions = [n for n, m in network.features.named_modules() if isinstance(m, nn.Conv2d)]
        return Parts(
            network,
            ResizeAndCrop(resize=(256, 256), crop=227),
            lists={
                "resnet_layers": [f"features.{name}" for name in convolutions],
                "alexnet_layers": [f"conv{i}" for i in range(1, 6)],
            },
            aliases={"memorability": OUTPUT},
        )


SOURCE: Source = _Source()
