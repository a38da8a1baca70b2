"""Convolutions that do a batch norm, a sum and an activation function as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

__all__ = [
    "ACTIVATIONS",
    "RELU",
    "Activation",
    "Norm",
    "OneDNNConv",
    "PlainConv",
    "folded",
    "has_onednn",
]


def has_onednn(device: torch.device) -> bool:
    """Tell whether convolutions on a device can be oneDNN's."""
    return device.type == "cpu" and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Norm:
    """A batch norm in evaluation mode: weight (x - mean) / sqrt(variance + eps) + bias."""

    mean: torch.Tensor
    variance: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float


@dataclass(frozen=True)
class Activation:
    """A function of single numbers that a convolution can apply to what it returns."""

    apply: Callable[[torch.Tensor], torch.Tensor]
    """May write on its input."""
    attr: str
    """Its name among oneDNN's operations of torch."""
    scalars: tuple[float, ...] = ()


RELU = Activation(torch.relu_, "relu")
ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: RELU,
    nn.ReLU6: Activation(partial(functional.relu6, inplace=True), "hardtanh", (0.0, 6.0)),
    nn.SiLU: Activation(partial(functional.silu, inplace=True), "swish"),
    nn.Hardswish: Activation(partial(functional.hardswish, inplace=True), "hardswish"),
}


def folded(conv: nn.Conv2d, norm: Norm | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of a convolution that does a batch norm as well.

    With s = weight / sqrt(variance + eps) of the norm: W' = s W and b' = s (b - mean) + bias,
    computed in float64 and rounded once.

    Returns
    -------
    torch.Tensor, shape [out, in / groups, height, width]
    torch.Tensor, shape [out]
    """
    weight = conv.weight.detach()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach()
    if norm is None:
        return weight, bias
    scale = (norm.variance.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach()
    shift = scale * (bias - norm.mean)
    if norm.bias is not None:
        shift = shift + norm.bias.detach()
    return (weight * scale.view(-1, 1, 1, 1)).to(weight.dtype), shift.to(weight.dtype)


class PlainConv(nn.Module):
    """A convolution, the sum with `other` where one is given, then an activation function.

    By torch's own operations one after the other, on any device, in the dtype of the weight.

    Parameters
    ----------
    conv : torch.nn.Conv2d
        Whose stride, padding, dilation and groups it has.
    weight, bias : torch.Tensor
        From `folded`, in the dtype to compute in.
    activation : Activation, optional
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        weight: torch.Tensor,
        bias: torch.Tensor,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        self.weight: torch.Tensor | None = weight.contiguous(memory_format=torch.channels_last)
        self.bias = bias
        self.kernel_size, self.groups = conv.kernel_size, conv.groups
        self.padding: Any = conv.padding
        self.stride, self.dilation = conv.stride, conv.dilation
        self.activation = activation

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """Return activation(conv(x) + other), without what there is not."""
        assert self.weight is not None
        y = functional.conv2d(
            x.to(self.bias.dtype),
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )
        return self._finish(y, other)

    def _finish(self, y: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        if other is not None:
            y = y + other
        return self.activation.apply(y) if self.activation else y


class OneDNNConv(PlainConv):
    """The same by one operation of oneDNN, on weights in the layout that it chooses.

    The layout is chosen for the shape of the first input; other shapes are as right, and slower.
    """

    onto_other = False
    """Whether the result may be left in the memory of `other`, which saves a pass over it."""
    _packed: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """Return activation(conv(x) + other), without what there is not."""
        x = x.to(self.bias.dtype)
        packed = self._packed if self._packed is not None else self._pack(x.shape)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        then = self.activation
        if (
            other is not None
            and (other.dtype, other.shape) == (x.dtype, self._shape(x))
            and then in (None, RELU)  # the only one after a sum
        ):
            return self._onto(other, x, packed, geometry)
        attr, scalars = (then.attr, then.scalars) if then and other is None else ("none", ())
        y: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, packed, self.bias, *geometry, attr, scalars, ""
        )
        return y if other is None else self._finish(y, other)

    def _onto(
        self, other: torch.Tensor, x: torch.Tensor, packed: torch.Tensor, geometry: tuple[Any, ...]
    ) -> torch.Tensor:
        in_place = self.onto_other and other.is_contiguous(memory_format=torch.channels_last)
        ops = torch.ops.mkldnn
        add = ops._convolution_pointwise_.binary if in_place else ops._convolution_pointwise.binary
        padding, stride, dilation, groups = geometry
        y: torch.Tensor = add(  # by name: the order of X and other differs between releases
            X=x,
            other=other,
            W=packed,
            B=self.bias,
            padding=padding,
            stride=stride,
            dilation=dilation,
            groups=groups,
            binary_attr="add",
            alpha=1.0,
            unary_attr=self.activation.attr if self.activation else None,
            unary_scalars=[],
            unary_algorithm=None,
        )
        return y

    def _pack(self, shape: torch.Size) -> torch.Tensor:
        assert self.weight is not None
        reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # its stub lacks the last one
        packed: torch.Tensor = reorder(
            self.weight.to_mkldnn(), self.padding, self.stride, self.dilation, self.groups, shape
        )
        self._packed, self.weight = packed, None
        return packed

    def _shape(self, x: torch.Tensor) -> tuple[int, ...]:
        """Return the shape of what the convolution makes of an input."""
        sizes = zip(
            x.shape[2:], self.kernel_size, self.padding, self.stride, self.dilation, strict=True
        )
        return (
            len(x),
            len(self.bias),
            *((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, p, s, d in sizes),
        )
