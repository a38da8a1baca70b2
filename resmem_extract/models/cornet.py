"""CORnet (Kubilius et al. 2018, 2019): four areas V1, V2, V4, IT and a decoder.

Definitions of our own after the papers, with the names of the published checkpoints. Z is
feed-forward; R and RT pass images through recurrent areas five times; S repeats within an area. A
step is a call of a module: ``IT.output@2`` is IT at the third step. In RT, as in R at the first
step, an area that the image has not reached yet sees zeros, so that it is equal for all images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from ..weights import WeightsFile
from .checkpoint import make
from .entries import ModelEntry, Parts, Source, Wanted
from .transforms import NAMED

__all__ = ["SOURCE", "CORnetR", "CORnetRT", "CORnetS", "CORnetZ"]

_STEPS = 5


def _decoder() -> nn.Sequential:
    decoder = nn.Sequential()
    decoder.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    decoder.add_module("flatten", nn.Flatten())
    decoder.add_module("linear", nn.Linear(512, 1000))
    return decoder


class AreaZ(nn.Module):
    """Convolution, ReLU, pooling."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2)
        self.nonlin = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.output = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[n, channels_in, h, w]` to `[n, channels, h', w']`, a quarter or half as high."""
        area: torch.Tensor = self.output(self.pool(self.nonlin(self.conv(x))))
        return area


class CORnetZ(nn.Module):
    """Four convolutions, one an area."""

    def __init__(self) -> None:
        super().__init__()
        self.V1 = AreaZ(3, 64, 7, 2)
        self.V2 = AreaZ(64, 128, 3, 1)
        self.V4 = AreaZ(128, 256, 3, 1)
        self.IT = AreaZ(256, 512, 3, 1)
        self.decoder = _decoder()
        self.decoder.add_module("output", nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images `[n, 3, h, w]` to categories `[n, 1000]`."""
        categories: torch.Tensor = self.decoder(self.IT(self.V4(self.V2(self.V1(x)))))
        return categories


class RecurrentArea(nn.Module):
    """What comes in, plus what the area held before, through one convolution."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv_input = nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2)
        self.norm_input = nn.GroupNorm(32, channels)
        self.nonlin_input = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(32, channels)
        self.nonlin1 = nn.ReLU(inplace=True)
        self.output = nn.Identity()

    def forward(self, x: torch.Tensor | None, held: torch.Tensor) -> torch.Tensor:
        """Return what the area holds next, `[n, channels, h, w]`.

        Parameters
        ----------
        x : torch.Tensor, optional
            What comes in, `[n, channels_in, h', w']`; None where nothing has arrived yet.
        held : torch.Tensor, shape [n, channels, h, w]
            What the area holds; zeros at the first step.
        """
        summed = held
        if x is not None:
            summed = self.nonlin_input(self.norm_input(self.conv_input(x))) + held
        new: torch.Tensor = self.output(self.nonlin1(self.norm1(self.conv1(summed))))
        return new


class _Recurrent(nn.Module):
    """Four recurrent areas; V1 sees the image at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.V1 = RecurrentArea(3, 64, 7, 4)
        self.V2 = RecurrentArea(64, 128, 3, 2)
        self.V4 = RecurrentArea(128, 256, 3, 2)
        self.IT = RecurrentArea(256, 512, 3, 2)
        self.decoder = _decoder()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images `[n, 3, 224, 224]` to categories `[n, 1000]`."""
        held = self._first(x)
        for _ in range(1, _STEPS):
            held = self._next(x, held)
        categories: torch.Tensor = self.decoder(held[-1])
        return categories

    def _areas(self) -> list[RecurrentArea]:
        return [self.V1, self.V2, self.V4, self.IT]

    def _first(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return what the areas hold after the first step, at which only V1 sees anything."""
        held: list[torch.Tensor] = []
        for area, side in zip(self._areas(), (56, 28, 14, 7), strict=True):
            nothing = x.new_zeros((x.shape[0], area.channels, side, side))
            held.append(area(None if held else x, nothing))
        return held

    def _next(self, x: torch.Tensor, held: list[torch.Tensor]) -> list[torch.Tensor]:
        raise NotImplementedError


class CORnetR(_Recurrent):
    """From the second step on, all areas see within one step what the one before holds now."""

    def _next(self, x: torch.Tensor, held: list[torch.Tensor]) -> list[torch.Tensor]:
        new: list[torch.Tensor] = []
        for area, before in zip(self._areas(), held, strict=True):
            new.append(area(new[-1] if new else x, before))
        return new


class CORnetRT(_Recurrent):
    """Biological time: an area sees what the one before held a step ago."""

    def _next(self, x: torch.Tensor, held: list[torch.Tensor]) -> list[torch.Tensor]:
        seen = [x, *held[:-1]]
        return [area(*both) for area, *both in zip(self._areas(), seen, held, strict=True)]


class _Strided(nn.Conv2d):
    """A convolution whose stride is that of the step."""

    def forward(self, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        return functional.conv2d(x, self.weight, None, stride, self.padding)


class AreaS(nn.Module):
    """A bottleneck with a skip connection, run several times with norms of each step's own."""

    def __init__(self, channels_in: int, channels: int, steps: int) -> None:
        super().__init__()
        self.steps, wide = steps, 4 * channels
        self.conv_input = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.skip = nn.Conv2d(channels, channels, 1, stride=2, bias=False)
        self.norm_skip = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, wide, 1, bias=False)
        self.nonlin1 = nn.ReLU(inplace=True)
        self.conv2 = _Strided(wide, wide, 3, padding=1, bias=False)
        self.nonlin2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(wide, channels, 1, bias=False)
        self.nonlin3 = nn.ReLU(inplace=True)
        self.output = nn.Identity()
        for step in range(steps):
            self.add_module(f"norm1_{step}", nn.BatchNorm2d(wide))
            self.add_module(f"norm2_{step}", nn.BatchNorm2d(wide))
            self.add_module(f"norm3_{step}", nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[n, channels_in, h, w]` to `[n, channels, h / 2, w / 2]`."""
        x = self.conv_input(x)
        for step in range(self.steps):
            skip = x if step else self.norm_skip(self.skip(x))
            x = self.nonlin1(self.get_submodule(f"norm1_{step}")(self.conv1(x)))
            x = self.conv2(x, 1 if step else 2)
            x = self.nonlin2(self.get_submodule(f"norm2_{step}")(x))
            x = self.get_submodule(f"norm3_{step}")(self.conv3(x)) + skip
            x = self.output(self.nonlin3(x))
        return x


class CORnetS(nn.Module):
    """Two convolutions for V1, then areas that run 2, 4 and 2 times."""

    def __init__(self) -> None:
        super().__init__()
        self.V1 = nn.Sequential()
        for name, module in {
            "conv1": nn.Conv2d(3, 64, 7, 2, padding=3, bias=False),
            "norm1": nn.BatchNorm2d(64),
            "nonlin1": nn.ReLU(inplace=True),
            "pool": nn.MaxPool2d(3, 2, padding=1),
            "conv2": nn.Conv2d(64, 64, 3, padding=1, bias=False),
            "norm2": nn.BatchNorm2d(64),
            "nonlin2": nn.ReLU(inplace=True),
            "output": nn.Identity(),
        }.items():
            self.V1.add_module(name, module)
        self.V2 = AreaS(64, 128, 2)
        self.V4 = AreaS(128, 256, 4)
        self.IT = AreaS(256, 512, 2)
        self.decoder = _decoder()
        self.decoder.add_module("output", nn.Identity())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images `[n, 3, h, w]` to categories `[n, 1000]`."""
        categories: torch.Tensor = self.decoder(self.IT(self.V4(self.V2(self.V1(x)))))
        return categories


_NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "cornet_z": (CORnetZ, "5c427c9c", "feed-forward"),
    "cornet_r": (CORnetR, "5930a990", "recurrent, 5 steps"),
    "cornet_rt": (CORnetRT, "933c001c", "recurrent in biological time, 5 steps"),
    "cornet_s": (CORnetS, "1d3f7974", "recurrent within areas; best on Brain-Score of the four"),
}


class _Source:
    """The four published networks."""

    def entries(self) -> Sequence[ModelEntry]:
        """Return Z, R, RT and S."""
        return [
            ModelEntry(f"cornet/{name}", "cornet", {"imagenet": _weights(name, digits)}, about)
            for name, (_, digits, about) in _NETWORKS.items()
        ]

    def load(self, wanted: Wanted) -> Parts:
        """Return a network, filled as asked."""
        constructor, _, _ = _NETWORKS[wanted.short]
        return Parts(make(constructor, wanted), NAMED["imagenet"])


SOURCE: Source = _Source()


def _weights(name: str, digits: str) -> WeightsFile:
    return WeightsFile(
        name=f"cornet/{name}",
        sha256=digits,
        licence="GPL-3.0",
        url=f"https://s3.amazonaws.com/cornet-models/{name}-{digits}.pth",
    )
