"""Keeps in float32 what bfloat16 mixed precision can't compute: missing operators, and values that need more digits."""

import functools
import threading
import weakref
from typing import Any, Callable, Dict, Tuple

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor
from torch import Tensor, nn
from torch.autograd import Function

from mmfasternet.compat import tree_map_only


class KeptFloat32:
    """Handle of :func:`keep_float32`; :meth:`remove` or the end of a ``with`` undoes it."""

    def __init__(self, model: nn.Module) -> None:
        self._hooks = []
        for module in model.modules():
            if isinstance(module, BaseRoIExtractor):
                self._hooks.append(module.register_forward_pre_hook(_Float32Inputs()))
            elif isinstance(module, BaseDenseHead):
                self._hooks.append(module.register_forward_hook(_Float32Outputs()))
        _Float32Operators.enter()
        self._model = model
        # Without a call of remove(), deleting the model restores the operators.
        self._leave = weakref.finalize(model, _Float32Operators.leave)
        self._leave.atexit = False

    def remove(self) -> None:
        """Undo it; mmcv's operators are restored once all handles are removed. A second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._leave()

    def __enter__(self) -> 'KeptFloat32':
        return self

    def __exit__(self, *error: Any) -> None:
        self.remove()


def keep_float32(model: nn.Module) -> KeptFloat32:
    """Compute boxes and mmcv's own operators in float32 under bfloat16 autocast; float16 is not affected.

    MMDetection makes anchors in the type of a dense head's outputs, and from
    them proposals; and it rounds RoIs to the type of the maps. bfloat16 has
    steps of 8 pixels at coordinates beyond 1024. mmcv has no bfloat16
    operators.

    Args:
        model: The model, changed in place. mmcv's operators are changed for the whole process, as long as any model
            needs it.

    Returns:
        A handle to undo it; deleting the model undoes it, too.

    Example:
        >>> with keep_float32(model), torch.autocast('cuda', torch.bfloat16):  # doctest: +SKIP
        ...     model(images)
    """
    return KeptFloat32(model)


class _Float32Inputs:
    """Casts bfloat16 inputs of a module to float32; gradients flow through."""

    def __call__(self, module: nn.Module, inputs: Tuple[Any, ...]) -> Tuple[Any, ...]:
        return tree_map_only(Tensor, _widened, inputs)


class _Float32Outputs:
    """Casts bfloat16 outputs of a module to float32; gradients flow through."""

    def __call__(self, module: nn.Module, inputs: Any, outputs: Any) -> Any:
        return tree_map_only(Tensor, _widened, outputs)


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.bfloat16 else x


class _Float32Operators:
    """mmcv's operators, shared by the process: in float32 while any model needs it."""

    users = 0
    forwards: Dict[Any, Any] = {}
    lock = threading.RLock()

    @classmethod
    def enter(cls) -> None:
        with cls.lock:
            cls.users += 1
            # Not at the modules: some create their inputs under autocast, and losses call the functions directly.
            for function in Function.__subclasses__():
                if function.__module__.startswith('mmcv.ops.') and function not in cls.forwards:
                    cls.forwards[function] = vars(function)['forward']
                    function.forward = staticmethod(_in_float32(function.forward))

    @classmethod
    def leave(cls) -> None:
        with cls.lock:
            cls.users -= 1
            if not cls.users:
                for function, forward in cls.forwards.items():
                    function.forward = forward
                cls.forwards.clear()


def _in_float32(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward pass of an autograd function, in float32 if it gets bfloat16 under autocast."""

    @functools.wraps(forward)
    def widening(ctx: Any, *inputs: Any) -> Any:
        narrow = next((x for x in inputs if isinstance(x, Tensor) and x.dtype == torch.bfloat16), None)
        if narrow is None or not torch.is_autocast_enabled(narrow.device.type):
            return forward(ctx, *inputs)
        with torch.autocast(narrow.device.type, enabled=False):
            return forward(ctx, *tree_map_only(Tensor, _widened, inputs))

    return widening
