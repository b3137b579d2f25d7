"""``torch.compile`` for the networks of a model, with Python's post-processing left outside."""

import os
import shutil
from typing import Any, Dict, List, Sequence, Tuple

import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmfasternet.deploy.dense import dense_head
from mmfasternet.errors import ArgumentError, UserError


def compile_networks(model: nn.Module, sizes: Sequence[Tuple[int, int]] = ()) -> None:
    """Compile backbone, neck and dense head (or the head of a classifier), in place; a bare backbone as a whole.

    Compilation takes place at the first call. On a CPU the weights become
    constants of the code: do not change them afterwards.

    Args:
        model: A model in inference form.
        sizes: Heights and widths to compile for. Images are padded with zeros,
            on the right and below, to the first one they fit in, as
            MMDetection pads the smaller images of a batch; on a GPU, CUDA
            graphs then replay each size. Defaults to none: one compilation
            serves any size, without padding and CUDA graphs.

    Raises:
        UserError: If there is no C++ compiler, which CPUs need.
    """
    on_cpu = all(p.device.type == 'cpu' for p in model.parameters())
    if on_cpu and not any(map(shutil.which, (os.environ.get('CXX', 'g++'), 'g++', 'clang++'))):
        raise UserError('compiling for a CPU needs a C++ compiler, and there is none: install g++, or leave out '
                        '--compile')
    how: Dict[str, Any] = dict(dynamic=not sizes)
    if on_cpu:
        how['options'] = {'freezing': True}
    elif sizes:
        how['mode'] = 'reduce-overhead'  # CUDA graphs
    parts = _networks(model)
    if sizes:
        parts[0].register_forward_pre_hook(_InputPadding(sizes))
    for part in parts:
        part.compile(**how)


class _InputPadding:
    """Pads images ``(N, C, H, W)`` to the first of some sizes that holds them."""

    def __init__(self, sizes: Sequence[Tuple[int, int]]) -> None:
        self.sizes = tuple(sizes)

    def __call__(self, module: nn.Module, inputs: Tuple[Tensor, ...]) -> Tuple[Tensor, ...]:
        height, width = inputs[0].shape[2:]
        for size in self.sizes:
            if height <= size[0] and width <= size[1]:
                return tuple(F.pad(x, (0, size[1] - width, 0, size[0] - height)) for x in inputs)
        raise ArgumentError(f'an image of {height} x {width} pixels fits in none of the sizes compiled for, '
                            f'{self.sizes}')


def _networks(model: nn.Module) -> List[nn.Module]:
    if not isinstance(model, BaseModel):
        return [model]
    head = model.head if getattr(model, 'head', None) is not None else dense_head(model)
    neck = getattr(model, 'neck', None)
    return [model.backbone, *([] if neck is None else [neck]), head]
