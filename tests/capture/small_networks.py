"""Small networks that are hard to capture from, and the plain-hook oracle for them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from resmem_extract.capture import Target
from resmem_extract.capture.outputs import tensors

CHANNELS = 4


def images(n: int) -> torch.Tensor:
    """Noise, the first images always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, CHANNELS, 6, 6, generator=generator)[:n].clone()


def plain_hooks(network: nn.Module, inputs: torch.Tensor) -> dict[Target, torch.Tensor]:
    """Return every tensor that any call of any module returns, cloned as it is made."""
    seen: dict[Target, torch.Tensor] = {}
    calls: dict[str, int] = defaultdict(int)

    def hook(name: str):
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            for keys, tensor in tensors(output):
                seen[Target(name, calls[name], keys)] = tensor.clone()
            calls[name] += 1

        return keep

    handles = [m.register_forward_hook(hook(n or "output")) for n, m in network.named_modules()]
    with torch.inference_mode():
        network(inputs)
    for handle in handles:
        handle.remove()
    return seen


def convolution() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS))


class Lambda(nn.Module):
    """A convolution, then whatever `after` does to it and to the block's input."""

    def __init__(self, after) -> None:
        super().__init__()
        self.body = convolution()
        self.after = after

    def forward(self, x):
        return self.after(self.body(x), x)


def residual(y, x):
    y += x
    return functional.relu(y, inplace=True)


def unused_relu(y, _x):
    functional.relu(y, inplace=True)
    return y


def unused_method(y, x):
    y.relu_()
    return y + x


def view_then_write(y, _x):
    y.view(len_of(y), -1).clamp_(min=-0.5)
    return y


def chunk_then_write(y, x):
    first, second = y.chunk(2, dim=1)
    first.mul_(2)
    return torch.cat((second, first), 1) + y + x


def dropout_then_write(y, _x):
    z = functional.dropout(y, 0.5, training=False)
    z.mul_(-1)
    return y


def write_on_input(y, x):
    x.add_(1)
    return y


def write_out(y, x):
    torch.mul(y, 2, out=y)
    return torch.sigmoid(y) - x


def alias_of_input(_y, x):
    return x


def len_of(x):
    return x.shape[0]


AFTER = (
    residual,
    unused_relu,
    unused_method,
    view_then_write,
    chunk_then_write,
    dropout_then_write,
    write_on_input,
    write_out,
    alias_of_input,
)
LEAVES = (
    lambda: nn.ReLU(inplace=True),
    nn.ReLU,
    nn.Identity,
    lambda: nn.Dropout(0.5, inplace=True),
    lambda: nn.Dropout(0.5),
    lambda: nn.Hardtanh(-0.7, 0.7, inplace=True),
    lambda: nn.MaxPool2d(3, 1, 1),
)


class TwoHeads(nn.Module):
    """Returns parts of a tuple inside a dict; one part is written to after it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution()
        self.left = convolution()
        self.right = convolution()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        stem = self.stem(x)
        left, right = self.left(stem), self.right(stem)
        self.relu(left)
        self.relu(stem)
        return {"both": (left, right), "stem": stem}
