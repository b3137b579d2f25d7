"""Which position of a 3x3 kernel has the largest norm: Fig. 6 of the paper."""

import re
from typing import Dict, List, Mapping

import torch
from torch import Tensor

from mmfasternet.errors import CheckpointError

_STAGE = re.compile(r'\D*\d+')  # 'layer1', 'backbone.layer1', 'stages.0'


def salient_positions(weights: Mapping[str, Tensor]) -> Dict[str, List[float]]:
    """Share of the filters in which each position has the largest norm, by stage.

    The norm of a position is that of the filter's weights there, over all
    channels (section 3.3). Stages are found by name: everything up to the
    first number, such as ``layer1``.

    Args:
        weights: State dict of any network; its kernels ``(O, C, 3, 3)`` are
            used.

    Returns:
        Nine shares, from the upper left to the lower right, that sum to 1, of
        each stage.

    Raises:
        CheckpointError: If there is no such kernel.
    """
    counts: Dict[str, Tensor] = {}
    for name, kernel in weights.items():
        if isinstance(kernel, Tensor) and kernel.dim() == 4 and tuple(kernel.shape[2:]) == (3, 3):
            stage = _STAGE.match(name)
            salient = kernel.float().norm(dim=1).flatten(1).argmax(1)
            key = stage.group() if stage else name.rpartition('.')[0]
            counts[key] = counts.get(key, torch.zeros(9)) + torch.bincount(salient, minlength=9)
    if not counts:
        raise CheckpointError('the checkpoint has no 3x3 convolution')
    return {stage: (count / count.sum()).tolist() for stage, count in counts.items()}
