"""The Mask R-CNN of Table 4 with any timm network that gives a pyramid of maps."""

import logging
from pathlib import Path
from typing import Dict, Optional, Sequence, Tuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmfasternet.benchmark.subjects.timm_networks import PREFIX, build_timm, fold_timm_norms
from mmfasternet.compat import fake_tensors
from mmfasternet.config_files import configs_folder
from mmfasternet.engine.config import load_config
from mmfasternet.engine.deploying import padded_size
from mmfasternet.errors import UserError, first_line
from mmfasternet.registry import MODELS

STRIDES = (4, 8, 16, 32)  # of the FPN's input maps
_BASE = Path('comparison') / 'mask_rcnn_resnet50_1x_coco.py'


@MODELS.register_module()
class TimmFeatures(BaseModule):
    """A timm network as the backbone of a detector, with random weights and merged branches.

    MMPretrain's ``TIMMBackbone`` keeps the training branches; this one is for
    measurements.

    Args:
        name: Its name in timm.
        out_indices: Which of its maps to return, by timm's numbers.
        init_cfg: Initialization config. Defaults to None.
    """

    def __init__(self, name: str, out_indices: Sequence[int], init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        self.network = build_timm(name, features_only=True, out_indices=tuple(out_indices))

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """Map images ``(N, 3, H, W)`` to maps ``(N, C, H / stride, W / stride)``, the largest first."""
        return tuple(self.network(images))


def named_config(argument: str, size: Tuple[int, int]) -> Tuple[str, Config]:
    """The name and the config of a detector from its command-line argument.

    Args:
        argument: A config file, or ``timm:NAME``: the Mask R-CNN of Table 4
            with that timm network.
        size: Height and width of its images in pixels.

    Raises:
        UserError: If there is no such file, timm is not installed or lists no
            such network, or the network can't be used in a detector.
    """
    if argument.startswith(PREFIX):
        return argument, mask_rcnn_config(argument.removeprefix(PREFIX), size)
    return Path(argument).stem, load_config(argument)


def mask_rcnn_config(name: str, size: Tuple[int, int] = (800, 1280)) -> Config:
    """The config of Table 4's ResNet50 with another backbone: FPN, heads and settings are the same.

    Args:
        name: The backbone's name in timm.
        size: Height and width of the images that it must take, in pixels.
            Defaults to (800, 1280).

    Raises:
        UserError: If timm is not installed or lists no such network, or the
            network gives no maps of strides 4, 8, 16 and 32, or does not
            support images of that size.
    """
    cfg = load_config(str(configs_folder() / _BASE))
    channels = _pyramid(name, padded_size(size, cfg))
    cfg.model.backbone = ConfigDict(type='mmfasternet.TimmFeatures', name=name, out_indices=list(channels))
    cfg.model.neck.in_channels = list(channels.values())
    return cfg


def fold_backbone(model: nn.Module, size: Tuple[int, int]) -> None:
    """Fold the batch norms of a detector's backbone, in place, if it is a timm network.

    Args:
        model: The detector, in eval mode.
        size: Height and width of its images in pixels.
    """
    backbone = getattr(model, 'backbone', None)
    if isinstance(backbone, TimmFeatures):
        device = next(backbone.parameters()).device
        fold_timm_norms(backbone.network, torch.rand(1, 3, *size, device=device))


def _pyramid(name: str, size: Tuple[int, int]) -> Dict[int, int]:
    """Channels of the last map of each stride, by timm's number of the map."""
    try:
        network = build_timm(name, features_only=True)
    except (RuntimeError, AttributeError, AssertionError, TypeError, KeyError) as error:
        raise UserError(f"'{PREFIX}{name}' gives no feature maps for a detector: {first_line(error)}") from None
    info = network.feature_info
    strides = info.reduction()
    if not set(STRIDES) <= set(strides):
        raise UserError(f"'{PREFIX}{name}' gives maps with strides {', '.join(map(str, strides))}: an FPN needs 4, 8, "
                        '16 and 32')
    logging.disable(logging.ERROR)  # PyTorch logs the traceback of an error as well
    try:
        with torch.no_grad(), fake_tensors():  # only shapes are computed
            maps = network(torch.empty(1, 3, *size))
    except Exception as error:  # each network has its own way to refuse a size
        raise UserError(f"'{PREFIX}{name}' does not support images of {size[0]} x {size[1]} pixels, as a detector "
                        f'needs: {first_line(error)}') from None
    finally:
        logging.disable(logging.NOTSET)
    at = {stride: place for place, stride in enumerate(strides)}  # the last of each
    expected = {stride: (1, info.channels()[at[stride]], size[0] // stride, size[1] // stride) for stride in STRIDES}
    for stride, shape in expected.items():
        actual = tuple(maps[at[stride]].shape)
        if actual != shape:
            raise UserError(f"'{PREFIX}{name}' gives a map of shape {actual} at stride {stride}: an FPN needs {shape}")
    return {info.out_indices[at[stride]]: shape[1] for stride, shape in expected.items()}
