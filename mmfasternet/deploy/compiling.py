"""``torch.compile`` for the networks of a model; post-processing stays in Python."""

import os
import shutil
from typing import Any, Dict, List, Sequence, Tuple

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmfasternet.compat import remove_forward_hooks, set_compiled_call
from mmfasternet.deploy.dense import dense_head
from mmfasternet.deploy.gpu import triton_kernels
from mmfasternet.deploy.gpu.cuda_graphs import padded
from mmfasternet.errors import ArgumentError, UserError


def compile_networks(model: nn.Module, sizes: Sequence[Tuple[int, int]] = ()) -> None:
    """Compile backbone, neck and dense head (or the head of a classifier), or a bare backbone, in place.

    Compilation takes place at the first call. On a CPU the weights become
    constants of the code: do not change them afterwards.

    Args:
        model: A model in inference form.
        sizes: Heights and widths to compile a detector or a backbone for.
            Images are padded with zeros, on the right and below, to the first
            size they fit in, as MMDetection pads the smaller images of a
            batch; larger images are compiled for without padding. Defaults to
            none: one compilation for all sizes, without padding.
    """
    how: Dict[str, Any] = dict(dynamic=not sizes)
    if _is_on_cpu(model):
        how['options'] = {'freezing': True}
    if sizes:
        networks(model)[0].register_forward_pre_hook(_InputPadding(sizes))
    for part in networks(model):
        part.compile(**how)


def check_compilable(model: nn.Module, sizes: Sequence[Tuple[int, int]] = ()) -> None:
    """Check that :func:`compile_networks` can compile a model.

    Raises:
        ArgumentError: If the networks of the model are unknown, or it is a
            classifier and ``sizes`` are given: its pooling would include the
            padding.
        UserError: If a compiler is missing.
    """
    networks(model)
    if sizes and getattr(model, 'head', None) is not None:
        raise ArgumentError('sizes are for detectors and backbones: a classifier would include the padding in its '
                            'pooling')
    check_compiler('cpu' if _is_on_cpu(model) else 'cuda')


def check_compiler(device_type: str) -> None:
    """Check that there is what ``torch.compile`` needs: a C++ compiler on a CPU, Triton and a C compiler on a GPU.

    Args:
        device_type: ``'cpu'`` or ``'cuda'``.

    Raises:
        UserError: If something is missing.
    """
    if device_type != 'cpu':
        lacking = triton_kernels.missing()
        if lacking:
            raise UserError(f'compiling for a GPU needs {lacking}, and there is none: install it, or run without '
                            'compiling')
    elif not any(map(shutil.which, (os.environ.get('CXX', 'g++'), 'g++', 'clang++'))):
        raise UserError('compiling for a CPU needs a C++ compiler, but there is none: install g++, or run without '
                        'compiling')


def remove_compilation(model: nn.Module) -> None:
    """Undo :func:`compile_networks`, in place."""
    for module in model.modules():
        set_compiled_call(module, None)
        remove_forward_hooks(module, _InputPadding)


class _InputPadding:
    """Pads images ``(N, C, H, W)`` to the first of some sizes that they fit in; larger ones are not padded."""

    def __init__(self, sizes: Sequence[Tuple[int, int]]) -> None:
        self.sizes = tuple(sizes)

    @torch.compiler.disable  # else each size would be compiled before padding
    def __call__(self, module: nn.Module, inputs: Tuple[Tensor, ...]) -> Tuple[Tensor, ...]:
        return tuple(padded(x, self.sizes) for x in inputs)


def _is_on_cpu(model: nn.Module) -> bool:
    return all(p.device.type == 'cpu' for p in model.parameters())


def networks(model: nn.Module) -> List[nn.Module]:
    """Backbone, neck and dense head of a detector, backbone, neck and head of a classifier, or a bare backbone.

    Raises:
        ArgumentError: If the model is none of these.
    """
    if not isinstance(model, BaseModel):
        return [model]
    head = model.head if getattr(model, 'head', None) is not None else dense_head(model)
    neck = getattr(model, 'neck', None)
    return [model.backbone, *([] if neck is None else [neck]), head]
