"""Lower bound of the time of a detector's layers on a machine."""

from collections import defaultdict
from typing import Any, Dict, List, Tuple

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmfasternet.benchmark.complexity import NUM_ROIS, build_for_counting
from mmfasternet.compat import fake_tensors
from mmfasternet.deploy.dense import each_module, image_channels

_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def least_times(cfg: Config, size: Tuple[int, int], dtype: torch.dtype, teraflops: float,
                gigabytes: float) -> Dict[str, float]:
    """Milliseconds of each part of a two-stage detector, if each layer ran at one of the machine's two ceilings.

    For each layer, the longer of two times counts: that of its operations, and
    that of reading its input and weights and writing its output once each.

    Args:
        cfg: Config of a two-stage detector with one head for boxes and one
            for masks.
        size: Height and width of the image in pixels.
        dtype: Type of maps and weights.
        teraflops: 10^12 multiplications and additions per second.
        gigabytes: 10^9 bytes read or written per second.
    """
    model = build_for_counting(cfg)
    with fake_tensors(), torch.no_grad():  # computes shapes only
        found: Dict[str, float] = defaultdict(float)
        part: List[str] = ['']

        def visit(layer: Any, inputs: Tuple[Tensor, ...], output: Tensor) -> None:
            moved = (inputs[0].numel() + output.numel() + layer.weight.numel()) * dtype.itemsize
            found[part[0]] += max(2 * _multiply_adds(layer, inputs[0], output) / teraflops / 1e9,
                                  moved / gigabytes / 1e6)

        for layer in model.modules():
            if isinstance(layer, _LAYERS):
                layer.register_forward_hook(visit)
        part[0] = 'backbone'
        maps = model.backbone(torch.empty(1, image_channels(model), *size))
        part[0] = 'neck'
        maps = model.neck(maps)
        part[0] = 'RPN'
        model.rpn_head(maps)
        for kind, name in (('bbox', 'RoI box'), ('mask', 'RoI mask')):
            extractor = each_module(getattr(model.roi_head, f'{kind}_roi_extractor'))[0]
            part[0] = name
            for head in each_module(getattr(model.roi_head, f'{kind}_head')):
                head(torch.empty(NUM_ROIS[kind], extractor.out_channels, *extractor.roi_layers[0].output_size))
    return dict(found)


def _multiply_adds(layer: Any, x: Tensor, output: Tensor) -> int:
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    if isinstance(layer, nn.ConvTranspose2d):
        return x.numel() * layer.weight.numel() // layer.in_channels
    return output.numel() * layer.weight.numel() // layer.out_channels
