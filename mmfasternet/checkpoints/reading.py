"""Reading of checkpoint files, safely and with one-line errors."""

import functools
import json
import logging
import pickle
import re
from pathlib import Path
from typing import Any, Dict

import torch
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmfasternet.checkpoints.contents import state_dict_of
from mmfasternet.checkpoints.download import download
from mmfasternet.checkpoints.fitting import listed
from mmfasternet.checkpoints.safe_loading import allowed_globals, forced_safe_loading, is_trusting
from mmfasternet.errors import CheckpointError

# How PyTorch names what it refuses, and how our own stand-in for getattr does.
_REFUSED = re.compile(r'(?:GLOBAL|attribute|unrecognized function|but got) (\S+)')
_REFUSED_FORMAT = re.compile(r'``weights_only=True`` with (?:files saved in the )?(legacy \.tar|TorchScript)')
_NOT_A_CHECKPOINT = {
    b'<!doctype': 'a web page',
    b'<html': 'a web page',
    b'<?xml': 'a web page',
    b'version https://git-lfs': 'a pointer of Git LFS',
}


def read_checkpoint(path: str, map_location: Any = 'cpu') -> Dict[str, Any]:
    """Read a checkpoint as it is; nothing in it is run unless :func:`trust_checkpoints` says so.

    Args:
        path: Path or URL, as MMEngine takes them: a file that PyTorch wrote,
            or ``.safetensors``.
        map_location: Where the tensors go, as ``torch.load`` takes it.
            Defaults to ``'cpu'``.

    Returns:
        Its content. That of ``.safetensors`` has the form of MMEngine's:
        ``state_dict`` and ``meta``.

    Raises:
        CheckpointError: If it can't be had, is broken, or holds anything but
            plain data; the message names the file.
    """
    if path.startswith(('http://', 'https://')):
        content = _read_file(download(path), map_location)
    elif '://' in path:
        with forced_safe_loading():
            content = CheckpointLoader.load_checkpoint(path, map_location)
    else:
        content = _read_file(Path(path).expanduser(), map_location)
    if not isinstance(content, dict):
        raise CheckpointError(f"checkpoint '{path}' holds a {type(content).__name__}, no state dict")
    spoilt = [key for key, value in state_dict_of(content, path).items()
              if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all()]
    if spoilt:
        _warn_once(f"checkpoint '{path}' holds NaN or infinite weights: {listed(spoilt)}. Its training diverged")
    return content


@functools.cache
def _warn_once(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)


def _read_file(path: Path, map_location: Any) -> Any:
    if not path.is_file():
        raise CheckpointError(f"checkpoint '{path}' does not exist. Check the path; training writes its "
                              f'checkpoints to the work folder, work_dirs/CONFIG by default')
    try:
        with path.open('rb') as file:
            start = file.read(64)
        for known, what in _NOT_A_CHECKPOINT.items():
            if start.lstrip().lower().startswith(known):
                raise CheckpointError(f"checkpoint '{path}' is {what}, no checkpoint: its download went wrong. "
                                      f'Remove it and fetch it again')
        if path.suffix == '.safetensors':
            return _read_safetensors(path, map_location)
        return _read_pickle(path, map_location)
    except (RuntimeError, EOFError, OSError, LookupError, ValueError, SafetensorError) as error:
        reason = (str(error).strip() or 'the file ends too early').splitlines()[0]
        raise CheckpointError(f"checkpoint '{path}' is broken: {reason}. Fetch or write it again") from None


def _read_safetensors(path: Path, map_location: Any) -> Dict[str, Any]:
    with safe_open(path, 'pt', device=str(map_location)) as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
        classes = (file.metadata() or {}).get('classes')
    return dict(state_dict=weights, meta=dict(dataset_meta=dict(classes=tuple(json.loads(classes)))) if classes else {})


def _read_pickle(path: Path, map_location: Any) -> Any:
    try:
        # MMEngine's own reading would try again unsafely.
        with allowed_globals():
            return torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        named, unsafe_format = _REFUSED.search(str(error)), _REFUSED_FORMAT.search(str(error))
        if isinstance(error, RuntimeError) and not unsafe_format:
            raise
        if not is_trusting():
            problem = 'is no checkpoint'
            if named:
                problem = f'asks for {named[1]}, more than plain data, and was not loaded'
            elif unsafe_format:
                problem = f"is of PyTorch's {unsafe_format[1]} format, which can't be read safely, and was not loaded"
            raise CheckpointError(f"checkpoint '{path}' {problem}. Use a file from a source that you trust, or, if "
                                  f'you do trust this one with all that you may do here, --trust-checkpoint') from None
    try:
        return torch.load(path, map_location=map_location, weights_only=False)
    except (pickle.UnpicklingError, ImportError, AttributeError, TypeError) as error:
        raise CheckpointError(f"checkpoint '{path}' can't be unpickled: {str(error).splitlines()[0]}") from None
