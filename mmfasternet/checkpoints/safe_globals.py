"""What a checkpoint of MMEngine holds beside tensors, made known to PyTorch's safe loading."""

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer


def register_safe_globals() -> None:
    """Let ``torch.load(..., weights_only=True)`` read the checkpoints that MMEngine writes.

    They hold the loss curves as :class:`~mmengine.logging.HistoryBuffer` with
    numpy arrays, and without this PyTorch 2.6 and newer refuse to load them.
    All of it is plain data; nothing that could call code is registered.
    """
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    torch.serialization.add_safe_globals([
        HistoryBuffer, ConfigDict, np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar,
        *{type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_, np.uint8)}
    ])
