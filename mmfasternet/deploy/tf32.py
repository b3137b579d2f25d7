"""TF32: whether a GPU computes PyTorch's float32 with fewer bits."""

from typing import Any, Tuple

import torch

from mmfasternet.errors import ArgumentError


def tf32() -> Tuple[bool, bool]:
    """Whether convolutions may round to TF32, and whether matrix products may.

    PyTorch 2.9 and later have two interfaces for it; the older one can't be
    read in a program that has used the newer one.
    """
    return _allowed(torch.backends.cudnn, 'conv'), _allowed(torch.backends.cuda.matmul, '')


def _allowed(backend: object, operator: str) -> bool:
    try:
        return bool(backend.allow_tf32)  # type: ignore[attr-defined]
    except RuntimeError:
        setting: Any = getattr(backend, operator) if operator else backend
        return setting.fp32_precision == 'tf32'


def set_tf32(name: str) -> None:
    """Set both.

    Args:
        name: ``'on'``; ``'off'``; or ``'convolutions'``, PyTorch's default.

    Raises:
        ArgumentError: If it is another name.
    """
    if name not in ('on', 'off', 'convolutions'):
        raise ArgumentError(f"TF32 must be on, off or convolutions, got '{name}'")
    wanted = name != 'off', name == 'on'
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = wanted
    if tf32() != wanted:  # a program has set the newer interface's default, to which 'off' in the older one falls back
        for backend, allowed in zip((torch.backends.cudnn.conv, torch.backends.cuda.matmul), wanted):
            backend.fp32_precision = 'tf32' if allowed else 'ieee'
