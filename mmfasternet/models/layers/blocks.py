"""The FasterNet block and the layer that embeds or merges patches."""

from contextlib import contextmanager, nullcontext
from typing import Any, Dict, Iterator, Optional

from mmcv.cnn import build_activation_layer
from mmcv.cnn.bricks import DropPath, LayerScale
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmfasternet.compat import BatchNorm
from mmfasternet.errors import ArgumentError

from .norm import build_norm
from .pconv import PartialConv


class PatchConv(nn.Module):
    """Patch embedding (4x4, stride 4) or merging (2x2, stride 2): convolution and norm.

    There is no activation: the supplement's Table 8 and the published weights
    have none, although Table 8 of the long version lists one.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        patch_size: Kernel size and stride.
        norm_cfg: Config of the normalisation layer.
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int, norm_cfg: Dict[str, Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, patch_size, stride=patch_size, bias=False)
        self.norm = build_norm(norm_cfg, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C_in, H, W)`` to ``(N, C_out, H // p, W // p)`` with patch size ``p``."""
        return self.norm(self.conv(x))


class FasterNetBlock(nn.Module):
    """Partial convolution and two pointwise convolutions with a shortcut (Fig. 4).

    ``y = x + W2 act(norm(W1 PConv(x)))``

    Norm and activation are only in the middle, to keep the features diverse
    and the latency low (section 3.4).

    Args:
        channels: Number of input and output channels.
        norm_cfg: Config of the normalisation layer.
        act_cfg: Config of the activation layer.
        mlp_ratio: Channels between the pointwise convolutions over
            ``channels``. Defaults to 2.
        partial_ratio: Share of the channels that is convolved. Defaults to 1/4.
        pconv_mode: Mode of :class:`PartialConv`. Defaults to ``'split_cat'``.
        drop_path_rate: Probability that stochastic depth drops the branch.
            Defaults to 0.
        layer_scale_init_value: Initial value of a learnt scale per channel of
            the branch; None for no scale. Defaults to None.
        with_cp: Recompute the branch in the backward pass instead of keeping
            its activations. Defaults to False.
    """

    def __init__(self,
                 channels: int,
                 norm_cfg: Dict[str, Any],
                 act_cfg: Dict[str, Any],
                 mlp_ratio: float = 2.,
                 partial_ratio: float = 1 / 4,
                 pconv_mode: str = 'split_cat',
                 drop_path_rate: float = 0.,
                 layer_scale_init_value: Optional[float] = None,
                 with_cp: bool = False) -> None:
        super().__init__()
        hidden_channels = int(channels * mlp_ratio)
        if hidden_channels < 1:
            raise ArgumentError(f'mlp_ratio {mlp_ratio} of {channels} channels leaves no hidden channel')
        self.pconv = PartialConv(channels, partial_ratio, mode=pconv_mode)
        self.conv1 = nn.Conv2d(channels, hidden_channels, 1, bias=False)
        self.norm = build_norm(norm_cfg, hidden_channels)
        self.act = build_activation_layer(act_cfg)
        self.conv2 = nn.Conv2d(hidden_channels, channels, 1, bias=False)
        self.layer_scale = nn.Identity() if layer_scale_init_value is None else LayerScale(
            channels, data_format='channels_first', scale=layer_scale_init_value)
        self.drop_path = DropPath(drop_path_rate)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        if self.with_cp and x.requires_grad:
            return checkpoint(
                self._forward, x, use_reentrant=False, context_fn=lambda: (nullcontext(), self._frozen_statistics()))
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        out = self.act(self.norm(self.conv1(self.pconv(x))))
        return x + self.drop_path(self.layer_scale(self.conv2(out)))

    @contextmanager
    def _frozen_statistics(self) -> Iterator[None]:
        """Prevent a recomputation from updating the running statistics a second time."""
        if not isinstance(self.norm, BatchNorm) or self.norm.num_batches_tracked is None:
            yield
            return
        momentum, batches = self.norm.momentum, self.norm.num_batches_tracked.clone()
        self.norm.momentum = 0.
        try:
            yield
        finally:
            self.norm.momentum = momentum
            self.norm.num_batches_tracked.copy_(batches)
