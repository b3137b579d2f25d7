"""Normalisation layers: mmcv's, and a layer norm for ``(N, C, H, W)`` maps."""

from typing import Any, Dict

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmfasternet.errors import ArgumentError
from mmfasternet.registry import MODELS


@MODELS.register_module('LN2d')
class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of an ``(N, C, H, W)`` map.

    The LN of the paper's Table 5. MMPretrain registers one under the same
    name; this one is used if MMPretrain is not installed.

    Args:
        num_channels: Number of channels ``C``.
        eps: Added to the variance. Defaults to 1e-6.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape ``(N, C, H, W)``; the shape is kept."""
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


def build_norm(cfg: Dict[str, Any], channels: int) -> nn.Module:
    """Build the normalisation layer of ``cfg`` for ``channels`` channels.

    Args:
        cfg: For example ``dict(type='BN')``, ``'SyncBN'``, ``'LN2d'`` or any
            other mmcv type, with its options and ``requires_grad``.
        channels: Number of channels of the ``(N, C, H, W)`` map.

    Raises:
        ArgumentError: If ``cfg`` is no such config, or groups don't divide the
            channels.
    """
    if not isinstance(cfg, dict) or not cfg.get('type'):
        raise ArgumentError(f"norm_cfg must be the config of a norm layer, such as dict(type='BN'), got {cfg!r}")
    groups = cfg.get('num_groups')
    if isinstance(groups, int) and (groups < 1 or channels % groups):
        possible = [number for number in range(1, channels + 1) if channels % number == 0]
        raise ArgumentError(f'norm_cfg.num_groups is {groups}, which does not divide {channels} channels: these can '
                            f'have {", ".join(map(str, possible))} groups')
    kind = cfg.get('type')
    if (MODELS.get(kind) if isinstance(kind, str) else kind) is LayerNorm2d:
        cfg = {'eps': 1e-6, **cfg, 'type': LayerNorm2d}  # mmcv would set its own eps
    return build_norm_layer(cfg, channels)[1]
