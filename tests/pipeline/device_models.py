"""A small model that can be sent to another process, and misbehaves there when told to."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import torch
from torch import nn

from resmem_extract.errors import OverflowInDtypeError
from resmem_extract.models.base import Model

FAIL, SLOW, ENDLESS = 13, 14, 15


def pixels(value: int) -> np.ndarray:
    """A batch of two images, all of whose pixels have one value."""
    return np.full((2, 4, 4, 3), value, np.uint8)


class Bytes:
    """Preprocessing that does nothing."""

    def image(self, image):
        return np.asarray(image.resize((4, 4)))

    def batch(self, images):
        return torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32)

    def describe(self):
        return {}


class Wilful(nn.Module):
    """Doubles its input, and does what it is told to once pixels have a certain value."""

    def __init__(self, deed: str) -> None:
        super().__init__()
        self.deed = deed
        self.scale = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.zeros_(self.scale.weight)
        with torch.no_grad():
            self.scale.weight[range(3), range(3)] = 2.0

    def forward(self, x):
        if (x == FAIL).all():
            if self.deed == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.deed == "exit":
                os._exit(3)
            if self.deed == "overflow":
                raise OverflowInDtypeError("scale: too large\nand more")
            raise ZeroDivisionError("no such thing\nand more")
        if (x == SLOW).all():
            time.sleep(0.4)
        if (x == ENDLESS).all():
            time.sleep(60)
        return self.scale(x)


def wilful(deed: str = "") -> Model:
    return Model("wilful", "tests", Wilful(deed).eval(), Bytes())
