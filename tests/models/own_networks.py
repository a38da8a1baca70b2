"""Networks of one's own, as a user would write them; named in tests as ``own_networks:small``."""

from __future__ import annotations

import torch
from torch import nn

CALLS = []


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.stem(x)).mean((2, 3)))


def small() -> nn.Module:
    CALLS.append("small")
    return Small()


def broken():
    raise RuntimeError("inside the factory")


class NotANumber(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * float("nan")


def with_transform():
    return Small(), to_tensor


def to_tensor(image):
    from torchvision.transforms import functional as f

    return f.to_tensor(f.resize(image, [32, 48]))


def at_random(image):
    from torchvision import transforms

    return transforms.Compose([transforms.RandomCrop(32), transforms.ToTensor()])(image)


def no_tensor(image):
    return image


def no_network():
    return "a network"


ready = Small()
version = "1.0"


class Sized(Small):
    """Takes an argument."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
