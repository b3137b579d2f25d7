"""What automatic mixed precision in bfloat16 leaves in float32: what has no operator for it, or needs more digits."""

import functools
from typing import Any, Callable, Tuple

import torch
from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._pytree import tree_map_only


def keep_float32(model: nn.Module) -> None:
    """Have RoIs and mmcv's own operators computed in float32 under autocast in bfloat16; in float16 nothing changes.

    MMDetection rounds RoIs to the type of the maps: in bfloat16 by up to 4
    pixels at coordinates beyond 1024. mmcv has no operators for it.

    Args:
        model: The model, changed in place. mmcv's operators are those of the
            whole process.
    """
    for module in model.modules():
        if isinstance(module, BaseRoIExtractor):
            module.register_forward_pre_hook(_Float32Inputs())
    _keep_mmcv_float32()


class _Float32Inputs:
    """Brings what is in bfloat16 into float32 before a module reads it; gradients go back through it."""

    def __call__(self, module: nn.Module, inputs: Tuple[Any, ...]) -> Tuple[Any, ...]:
        return tree_map_only(Tensor, _widened, inputs)


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.bfloat16 else x


@functools.cache  # once
def _keep_mmcv_float32() -> None:
    # Not by modules: some make inputs of their own under autocast, and losses call the functions.
    for function in Function.__subclasses__():
        if function.__module__.startswith('mmcv.ops.'):
            function.forward = staticmethod(_in_float32(function.forward))


def _in_float32(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward pass of a function of autograd, in float32 where it is given bfloat16 under autocast."""

    @functools.wraps(forward)
    def widening(ctx: Any, *inputs: Any) -> Any:
        narrow = next((x for x in inputs if isinstance(x, Tensor) and x.dtype == torch.bfloat16), None)
        if narrow is None or not torch.is_autocast_enabled(narrow.device.type):
            return forward(ctx, *inputs)
        with torch.autocast(narrow.device.type, enabled=False):
            return forward(ctx, *tree_map_only(Tensor, _widened, inputs))

    return widening
