"""What a checkpoint of MMEngine holds beside tensors, made known to PyTorch's safe loading."""

import os
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

_STATISTICS = ('min', 'max', 'mean', 'current')


def enforce_safe_loading() -> None:
    """Have ``torch.load`` read the checkpoints that MMEngine writes, and run nothing that is in them.

    They hold the loss curves as :class:`~mmengine.logging.HistoryBuffer` with
    numpy arrays, and without this PyTorch 2.6 and newer refuse to load them.
    All of it is plain data; nothing that could call code is registered.
    Safe loading is enforced for the whole process, since MMEngine's maintained
    release unpickles whatever safe loading refuses.
    """
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    torch.serialization.add_safe_globals([
        HistoryBuffer, ConfigDict, np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar,
        *{type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_, np.uint8)},
        # numpy 1 wrote other names, and HistoryBuffer names its methods through getattr.
        (multiarray._reconstruct, 'numpy.core.multiarray._reconstruct'),
        (multiarray.scalar, 'numpy.core.multiarray.scalar'),
        (_statistic_of_history_buffer, 'builtins.getattr')
    ])


def _statistic_of_history_buffer(owner: Any, name: str) -> Any:
    """Stand in for ``getattr`` in checkpoints, where its one honest use is to name these methods."""
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise UnpicklingError(f'the checkpoint asks for attribute {name!r} of {owner!r}')
    return getattr(HistoryBuffer, name)
