"""EfficientNet-Lite0 as a feature map: the compact convolutional backbone of `small`.

Architecture: Tan & Le, "EfficientNet" (ICML 2019), in the Lite variant (no squeeze-and-excitation, ReLU6).
Batch normalisation is folded into the convolutions, because the backbone is frozen: fewer tensors, less time on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# (repeats, kernel, stride of the first, expansion, channels out) of the seven stages
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
# Images that pass the layers together on a CPU: few enough for the activations to stay in the caches. 64 images at once
# take up to five times as long.
CPU_BATCH = 2


class SameConv(nn.Conv2d):
    """A convolution padded like TensorFlow's "same", as in training: an odd pixel goes to the right and the bottom."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride=stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return F.conv2d(x, self.weight, self.bias, padding=kernel // 2, groups=self.groups)
        height, width = x.shape[-2:]
        down = max((-(-height // stride) - 1) * stride + kernel - height, 0)
        right = max((-(-width // stride) - 1) * stride + kernel - width, 0)
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        return F.conv2d(x, self.weight, self.bias, stride=stride, groups=self.groups)


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise kxk, project 1x1; a residual connection where the shape stays."""

    def __init__(self, channels_in: int, channels_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        self.expand = SameConv(channels_in, inner, 1) if expansion != 1 else None
        self.depthwise = SameConv(inner, inner, kernel, stride=stride, groups=inner)
        self.project = SameConv(inner, channels_out, 1)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        # In place: the backbone is frozen, no backward pass needs the activations.
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """A frozen backbone that returns a 7 x 7 map gathered from several stages.

    Early stages encode colour and texture, late stages the object; a composed query is about both. Each chosen stage is
    average-pooled to 7 x 7 and the channels are concatenated.

    Args:
        stages: numbers of the stages to gather, from 0 to 6, in order.

    Attributes:
        cpu_batch: how many images pass together on a CPU; None for all.
    """

    def __init__(self, *, stages: tuple[int, ...] = (2, 4, 6)) -> None:
        super().__init__()
        self.cpu_batch: int | None = CPU_BATCH
        self.gathered = tuple(stages)
        self.stem = SameConv(3, STEM_CHANNELS, 3, stride=2)
        self.stages = nn.ModuleList()
        channels = STEM_CHANNELS
        for repeats, kernel, stride, expansion, out in STAGES:
            blocks = []
            for i in range(repeats):
                step = stride if i == 0 else 1
                blocks.append(InvertedResidual(channels, out, kernel=kernel, stride=step, expansion=expansion))
                channels = out
            self.stages.append(nn.Sequential(*blocks))
        self.width = sum(STAGES[i][-1] for i in self.gathered)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) preprocessed pixels -> (B, 49, width) features, not normalised."""
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        if self.cpu_batch is None or pixels.device.type != "cpu":
            return self._map(pixels)
        return torch.cat([self._map(part) for part in pixels.split(self.cpu_batch)])

    def _map(self, pixels: Tensor) -> Tensor:
        x = F.relu6(self.stem(pixels))
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.gathered:
                maps.append(F.adaptive_avg_pool2d(x, 7))
        return torch.cat(maps, dim=1).flatten(2).transpose(1, 2)
