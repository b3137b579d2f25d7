"""Reading of checkpoint files, safely and with one-line errors."""

import functools
import json
import logging
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Set, Tuple

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmfasternet.checkpoints.allowlist import is_trusting, only_allowed_globals, unforced
from mmfasternet.checkpoints.contents import averages_first, only_weights, state_dict_of, weight_names
from mmfasternet.checkpoints.download import local_path
from mmfasternet.errors import CheckpointError, UserError, first_line
from mmfasternet.installed import require
from mmfasternet.models.weights.fitting import listed

#: The entry of a ``.safetensors`` file's metadata with the names of the classes, a json list.
CLASSES_ENTRY = 'mmfasternet.classes'

# How PyTorch names what it refuses, and how our own stand-ins do.
_REFUSED = re.compile(r'(?:GLOBAL|attribute|unrecognized function|but got) (?:<(?:class|function|built-in function) )?'
                      r"'?([^\s'>]+)")
_REFUSED_FORMAT = re.compile(r'``weights_only=True`` with (?:files saved in the )?(legacy \.tar|TorchScript)')
# What PyTorch says of a device that is not there, or has too little memory.
_NOT_ITS_FAULT = re.compile("CUDA|can't allocate memory|restore data location|device string|device type")
_NOT_A_CHECKPOINT = {
    b'<!doctype': 'a web page',
    b'<html': 'a web page',
    b'<?xml': 'a web page',
    b'version https://git-lfs': 'a pointer of Git LFS',
}


def read_checkpoint(path: str, map_location: Any = 'cpu') -> Dict[str, Any]:
    """Read a checkpoint as it is; no code in it runs unless :func:`trust_checkpoints` allows it.

    If it also holds other weights of the same network, such as their average,
    the log says which are used: the same ones that MMEngine's loader uses.

    Args:
        path: Path or URL of a PyTorch file or a ``.safetensors`` file.
            ``#NAME`` after it selects other weights in it.
        map_location: Where the tensors go, as ``torch.load`` takes it.
            Defaults to ``'cpu'``.

    Returns:
        Its content. That of ``.safetensors``, and of weights selected by name,
        has ``state_dict`` and ``meta``, as MMEngine's files have.

    Raises:
        CheckpointError: If it can't be read, is broken, or holds anything but
            plain data; the message names the file.
    """
    address, name = _split(path)
    file = local_path(address)
    content = _read_file(file, map_location)
    if not isinstance(content, dict):
        raise CheckpointError(f"checkpoint '{file}' holds a {type(content).__name__}, not a state dict")
    if name:
        content = only_weights(content, name, address)
    else:
        _tell_of_others(content, path)
    spoilt = [key for key, value in state_dict_of(content, path).items() if not _is_finite(value)]
    if spoilt:
        _log_once(f"checkpoint '{file}' holds NaN or infinite weights: {listed(spoilt)}", logging.WARNING)
    return content


def _split(path: str) -> Tuple[str, str]:
    """The file's path or URL, and the name of weights in it, empty if there is none."""
    address, _, name = path.rpartition('#')
    named = address and name and '/' not in name and not Path(path).exists()
    return (address, name) if named else (path, '')


def _tell_of_others(content: Dict[str, Any], path: str) -> None:
    taken, others = weight_names(content, path)
    if not others:
        return
    averaged = ' (the averaged ones; a resumed training uses both)' if averages_first(content) else ''
    _log_once(f"checkpoint '{path}' holds other weights of the same network as well: {listed(others)}. Using "
              f"'{taken}'{averaged}. To use the others: '{path}#{others[0]}'", logging.INFO)


def _is_finite(value: Any) -> bool:
    plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
    number = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    if not plain or value.dtype not in number:
        return True
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():  # expanded from a few bytes
        value = value.new_empty(0).set_(value.untyped_storage())
    return bool(value.isfinite().all())


@functools.cache
def _log_once(message: str, level: int) -> None:
    print_log(message, logger='current', level=level)


def _read_file(path: Path, map_location: Any) -> Any:
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # such as too long a name
        raise CheckpointError(f"checkpoint '{path}' can't be read: {error.strerror}") from None
    if is_folder:
        raise CheckpointError(f"checkpoint '{path}' is a folder. Give a file in it")
    if not is_file:
        raise CheckpointError(f"checkpoint '{path}' does not exist. Check the path; training writes its "
                              f'checkpoints to the work folder, work_dirs/CONFIG by default')
    try:
        with path.open('rb') as file:
            start = file.read(64)
        for known, what in _NOT_A_CHECKPOINT.items():
            if start.lstrip().lower().startswith(known):
                raise CheckpointError(f"checkpoint '{path}' is {what}, not a checkpoint. Remove it and download it "
                                      'again')
        if path.suffix == '.safetensors' or start[8:9] == b'{':
            return _read_safetensors(path, map_location)
        return _read_pickle(path, map_location)
    except UserError:
        raise
    except Exception as error:  # a file may hold anything, and be broken anywhere
        if isinstance(error, OSError) and error.errno is not None:  # a system error is not about its content
            raise CheckpointError(f"checkpoint '{path}' can't be read: {error.strerror}") from None
        text = str(error).strip()
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _NOT_ITS_FAULT.search(text):
            reason = (text or 'out of memory').splitlines()[0]
            raise CheckpointError(f"checkpoint '{path}' can't be loaded here: {reason}") from None
        says = isinstance(error, (RuntimeError, OSError, ValueError)) and text
        reason = text.splitlines()[0] if says else 'it is not a PyTorch file, or an incomplete one'
        raise CheckpointError(f"checkpoint '{path}' is broken: {reason}. Remove it, and download or write it "
                              'again') from None


def _read_safetensors(path: Path, map_location: Any) -> Dict[str, Any]:
    safetensors = require('safetensors')
    try:
        with safetensors.safe_open(path, 'pt') as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
            classes = json.loads((file.metadata() or {}).get(CLASSES_ENTRY, '[]'))
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from None
    if isinstance(map_location, (str, torch.device)):
        weights = {key: value.to(map_location) for key, value in weights.items()}
    return dict(state_dict=weights, meta=dict(dataset_meta=dict(classes=tuple(classes))) if classes else {})


def _read_pickle(path: Path, map_location: Any) -> Any:
    _check_unpacked(path)
    try:
        # MMEngine's own reading would try again unsafely.
        with only_allowed_globals():
            return torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        problem = _refusal(path, str(error))
        if not problem and isinstance(error, RuntimeError):
            raise
        if not problem:
            raise CheckpointError(f"checkpoint '{path}' is not a PyTorch checkpoint. Give another file") from None
        if not is_trusting():
            raise CheckpointError(f"checkpoint '{path}' {problem}, and was not loaded. Use a file from a source you "
                                  'trust or, if you trust this one to run code with your permissions, '
                                  '--trust-checkpoint (in Python: mmfasternet.checkpoints.trust_checkpoints)'
                                  ) from None
    try:
        with unforced():
            return torch.load(path, map_location=map_location, weights_only=False)
    except Exception as error:
        raise CheckpointError(f"checkpoint '{path}' can't be unpickled: {first_line(error)}") from None


def _check_unpacked(path: Path) -> None:
    """Refuse a small file that would fill the memory: PyTorch does not compress."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > 100 * path.stat().st_size:
            raise CheckpointError(f"checkpoint '{path}' unpacks to {unpacked / 1e6:.0f} MB, over 100 times its size, "
                                  'which no checkpoint does, and was not loaded')


def _refusal(path: Path, text: str) -> str:
    """The cause of PyTorch's refusal; empty if the file is not a checkpoint at all."""
    named = _REFUSED.search(text)
    if named:
        return f'asks for {named[1]}, which is more than plain data'
    unsafe_format = _REFUSED_FORMAT.search(text)
    if unsafe_format:
        return f"is of PyTorch's {unsafe_format[1]} format, which can't be read safely"
    if 'Unsupported operand' in text and zipfile.is_zipfile(path):
        names = listed(_named_in(path)) or 'nothing by name'
        return f"is pickled with another protocol than PyTorch's, which can't be read safely (it asks for {names})"
    return ''


def _named_in(path: Path) -> List[str]:
    """What a file's pickle requests besides PyTorch's own objects, read from its opcodes without executing any."""
    with zipfile.ZipFile(path) as archive:
        data = archive.read(next(name for name in archive.namelist() if name.endswith('data.pkl')))
    names: Set[str] = set()
    texts: List[str] = []
    for operation, argument, _ in pickletools.genops(data):
        if operation.name == 'GLOBAL':
            names.add(str(argument).replace(' ', '.'))
        elif operation.name == 'STACK_GLOBAL':
            names.add('.'.join(texts[-2:]))
        elif isinstance(argument, str):
            texts.append(argument)
    return sorted(name for name in names if not name.startswith(('torch.', 'collections.')))
