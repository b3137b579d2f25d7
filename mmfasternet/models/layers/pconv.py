"""Partial convolution, the operator FasterNet is built on."""

import math
from typing import Optional

import torch
from torch import Tensor, nn

from mmfasternet.errors import ArgumentError

MODES = ('split_cat', 'slicing')


class PartialConv(nn.Module):
    """Convolve the first channels of a feature map, and pass the rest on untouched.

    With ``cp`` of ``c`` channels convolved by a ``k x k`` kernel on an ``h x w``
    map, it takes ``h w k² cp²`` multiply-adds (eq. 4) and about ``2 h w cp``
    memory accesses (eq. 5): 1/16 and 1/4 of a regular convolution's at the
    usual ratio of 1/4.

    Source: `Run, Don't Walk <https://arxiv.org/abs/2303.03667>`_, section 3.2
    and listing 1 of its appendix. The listing's slicing form overwrites its
    input, and with it the shortcut of the surrounding block; neither mode here
    changes the input, and both give the same outputs.

    Args:
        channels: Number of input and of output channels ``c``.
        partial_ratio: Share of the channels that is convolved,
            ``cp / c``, in (0, 1]; the product is rounded down.
            Defaults to 1/4 if ``n_div`` is not given either.
        kernel_size: Odd kernel size ``k``; the padding keeps the spatial
            size. Defaults to 3.
        mode: ``'split_cat'`` concatenates the two parts and is
            differentiable; ``'slicing'`` writes them into one new tensor and
            is for inference only. Defaults to ``'split_cat'``.
        n_div: The reciprocal of ``partial_ratio``, as in the paper's listing;
            give one of the two. Defaults to None.

    Raises:
        ValueError: If an argument is out of its range; the message names it.

    Example:
        >>> import torch
        >>> from mmfasternet.models import PartialConv
        >>> pconv = PartialConv(64, partial_ratio=1 / 4)
        >>> pconv.conv.weight.shape
        torch.Size([16, 16, 3, 3])
        >>> pconv(torch.rand(1, 64, 8, 8)).shape
        torch.Size([1, 64, 8, 8])
    """

    def __init__(self,
                 channels: int,
                 partial_ratio: Optional[float] = None,
                 kernel_size: int = 3,
                 mode: str = 'split_cat',
                 n_div: Optional[int] = None) -> None:
        super().__init__()
        if n_div is not None:
            if partial_ratio is not None:
                raise ArgumentError('give either partial_ratio or n_div, not both')
            if not isinstance(n_div, int) or n_div < 1:
                raise ArgumentError(f'n_div must be a positive integer, got {n_div!r}')
            partial_ratio = 1 / n_div
        elif partial_ratio is None:
            partial_ratio = 1 / 4
        if not 0 < partial_ratio <= 1:
            raise ArgumentError(f'partial_ratio must lie in (0, 1], got {partial_ratio}')
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ArgumentError(f'kernel_size must be odd and positive, got {kernel_size}')
        if mode not in MODES:
            raise ArgumentError(f'mode must be one of {MODES}, got {mode!r}')
        # The tolerance compensates for rounding of ratios such as 1/3 or 0.1.
        conv_channels = math.floor(channels * partial_ratio + 1e-6)
        if conv_channels < 1:
            raise ArgumentError(f'partial_ratio {partial_ratio:g} (1 / n_div) of {channels} channels leaves '
                                f'no channel to convolve')

        self.channels = channels
        self.conv_channels = conv_channels
        self.untouched_channels = channels - conv_channels
        self.mode = mode
        self.conv = nn.Conv2d(conv_channels, conv_channels, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the partial convolution.

        Args:
            x: Feature map of shape ``(N, C, H, W)`` with ``C == channels``.

        Returns:
            A new tensor of the same shape.

        Raises:
            ValueError: If ``x`` does not have ``channels`` channels.
            RuntimeError: If the mode is ``'slicing'`` and a gradient is needed.
        """
        if x.shape[1] != self.channels:
            raise ArgumentError(f'channels is {self.channels}, but the input has {x.shape[1]} (shape {tuple(x.shape)})')
        if self.mode == 'slicing':
            return self._forward_slicing(x)
        convolved, untouched = torch.split(x, [self.conv_channels, self.untouched_channels], dim=1)
        return torch.cat((self.conv(convolved), untouched), dim=1)

    def _forward_slicing(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (x.requires_grad or self.conv.weight.requires_grad):
            raise RuntimeError("mode 'slicing' is for inference: use torch.no_grad(), or mode 'split_cat' to train")
        out = torch.empty_like(x)
        out[:, :self.conv_channels] = self.conv(x[:, :self.conv_channels])
        out[:, self.conv_channels:] = x[:, self.conv_channels:]
        return out

    def extra_repr(self) -> str:
        return f'{self.channels}, convolved={self.conv_channels}, mode={self.mode}'
