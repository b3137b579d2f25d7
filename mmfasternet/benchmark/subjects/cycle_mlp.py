"""CycleMLP (ICLR 2022), for comparison only: none of the libraries used here provides it."""

from typing import Sequence, Tuple

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

CHANNELS = (64, 128, 320, 512)
MLP_RATIO = 4


class CycleFC(nn.Module):
    """A linear layer over the channels, each of which is read from a position shifted according to its index.

    Channel ``i`` of the input is read ``(i + s) mod k - k // 2`` pixels away along one axis; as published, it is a
    deformable 1x1 convolution with fixed offsets.

    Args:
        channels: Channels of input and output.
        kernel: Length of the cycle along each axis, height and width; one of them 1.
    """

    def __init__(self, channels: int, kernel: Tuple[int, int]) -> None:
        super().__init__()
        self.conv = DeformConv2d(channels, channels, 1)
        length = max(kernel)
        shifts = (torch.arange(channels) + length // 2) % length - length // 2
        offsets = torch.zeros(channels, 2)
        offsets[:, 0 if kernel[0] > 1 else 1] = shifts.float()
        self.register_buffer('offsets', offsets.reshape(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        batch, _, height, width = x.shape
        return self.conv(x, self.offsets.expand(batch, -1, height, width))


class CycleMixer(nn.Module):
    """Three branches, along height, width and channels, weighted by their mean; channels last.

    Args:
        channels: Channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.along_width = CycleFC(channels, (1, 3))
        self.along_height = CycleFC(channels, (3, 1))
        self.along_channels = nn.Linear(channels, channels, bias=False)
        self.weigh = mlp(channels, channels // 4, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, H, W, C)`` to the same shape."""
        maps = x.permute(0, 3, 1, 2)
        branches = torch.stack([self.along_height(maps).permute(0, 2, 3, 1), self.along_width(maps).permute(0, 2, 3, 1),
                                self.along_channels(x)])
        means = branches.sum(0).mean((1, 2))
        weights = self.weigh(means).reshape(len(x), -1, 3).permute(2, 0, 1).softmax(0)
        return self.project((branches * weights[:, :, None, None]).sum(0))


class CycleBlock(nn.Module):
    """Mixer and multi-layer perceptron, each with a layer norm before it and a shortcut; channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.mixer = CycleMixer(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = mlp(channels, MLP_RATIO * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, H, W, C)`` to the same shape."""
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CycleMLP(nn.Module):
    """CycleMLP as a classifier.

    Args:
        layers: Blocks of each of the four stages: (2, 2, 4, 2) is B1, (2, 3, 10, 3) is B2.
        num_classes: Number of classes.
    """

    def __init__(self, layers: Sequence[int], num_classes: int) -> None:
        super().__init__()
        inputs = (3, *CHANNELS[:-1])
        self.embeddings = nn.ModuleList(
            nn.Conv2d(given, channels, 7, stride=4, padding=2) if given == 3 else
            nn.Conv2d(given, channels, 3, stride=2, padding=1) for given, channels in zip(inputs, CHANNELS))
        self.stages = nn.ModuleList(
            nn.Sequential(*(CycleBlock(channels) for _ in range(count))) for channels, count in zip(CHANNELS, layers))
        self.norm = nn.LayerNorm(CHANNELS[-1])
        self.head = nn.Linear(CHANNELS[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        x = images
        for embedding, stage in zip(self.embeddings, self.stages):
            x = stage(embedding(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(self.norm(x.permute(0, 2, 3, 1)).mean((1, 2)))


def mlp(channels: int, hidden: int, out: int) -> nn.Sequential:
    """Two linear layers with GELU between them."""
    return nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, out))
