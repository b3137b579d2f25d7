"""Which objects a checkpoint may hold beside tensors, and who may decide otherwise."""

import os
from collections import OrderedDict
from contextlib import contextmanager
from contextvars import ContextVar
from pickle import UnpicklingError
from typing import Any, Iterator

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

_FORCE, _FORCE_NOT = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
_multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray

# Methods that these keep as attributes, which pickle names through getattr.
_METHODS = {
    HistoryBuffer: ('min', 'max', 'mean', 'current'),
    OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
}


def _method(owner: Any, name: str) -> Any:
    """Stand in for ``getattr`` in checkpoints, where its one honest use is to name these methods."""
    # Identity, not equality: the owner may be anything that the file could build.
    if not any(owner is known and name in methods for known, methods in _METHODS.items()):
        raise UnpicklingError(f'the checkpoint asks for attribute {name!r} of {owner!r}')
    return getattr(owner, name)


#: What MMEngine's checkpoints and those of MMDetection 2.x hold beside tensors and Python's plain types: loss curves,
#: numpy's arrays and numbers, parts of configs. It is all data; nothing in it could call code.
ALLOWED = (
    *_METHODS,
    ConfigDict,
    bytes,  # an empty array's
    np.ndarray,
    np.dtype,
    _multiarray._reconstruct,
    _multiarray.scalar,
    *sorted({type(np.dtype(code)) for code in f"?SU{np.typecodes['AllInteger']}{np.typecodes['AllFloat']}"}, key=str),
    (_multiarray._reconstruct, 'numpy.core.multiarray._reconstruct'),  # as numpy 1 wrote it
    (_multiarray.scalar, 'numpy.core.multiarray.scalar'),
    (OrderedDict, 'mmcv.utils.config.ConfigDict'),  # of mmcv 1.x, a dict
    (_method, 'builtins.getattr'),
)

_trusting: ContextVar[bool] = ContextVar('trusting', default=False)


@contextmanager
def trust_checkpoints(trust: bool = True) -> Iterator[None]:
    """Within it, a checkpoint that safe loading refuses is unpickled: code in it runs with the user's rights."""
    token = _trusting.set(trust)
    try:
        yield
    finally:
        _trusting.reset(token)


def is_trusting() -> bool:
    """Whether :func:`trust_checkpoints` holds."""
    return _trusting.get()


@contextmanager
def allowed_globals() -> Iterator[None]:
    """Within it, PyTorch's safe loading takes what is :data:`ALLOWED`."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(list(ALLOWED))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


@contextmanager
def forced_safe_loading() -> Iterator[None]:
    """Within it, every ``torch.load`` of the process is a safe one, unless checkpoints are trusted.

    Asking for it is not enough: MMEngine's maintained release unpickles
    whatever safe loading refuses.
    """
    variables = {name: os.environ.pop(name, None) for name in (_FORCE, _FORCE_NOT)}
    if not is_trusting():
        os.environ[_FORCE] = '1'
    try:
        with allowed_globals():
            yield
    finally:
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
