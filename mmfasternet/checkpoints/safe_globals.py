"""What a checkpoint of MMEngine holds beside tensors, made known to PyTorch's safe loading."""

from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

_STATISTICS = ('min', 'max', 'mean', 'current')


def register_safe_globals() -> None:
    """Let ``torch.load(..., weights_only=True)`` read the checkpoints that MMEngine writes.

    They hold the loss curves as :class:`~mmengine.logging.HistoryBuffer` with
    numpy arrays, and without this PyTorch 2.6 and newer refuse to load them.
    All of it is plain data; nothing that could call code is registered.
    """
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    torch.serialization.add_safe_globals([
        HistoryBuffer, ConfigDict, np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar,
        *{type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_, np.uint8)},
        (_statistic_of_history_buffer, 'builtins.getattr')
    ])


def _statistic_of_history_buffer(owner: Any, name: str) -> Any:
    """Stand in for ``getattr`` in checkpoints, where its one honest use is to name these methods."""
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise UnpicklingError(f'the checkpoint asks for attribute {name!r} of {owner!r}')
    return getattr(HistoryBuffer, name)
