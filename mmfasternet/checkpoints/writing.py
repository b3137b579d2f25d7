"""Checkpoints written atomically: converted to another layout, or made ready to publish."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any, Dict, List, Tuple

import torch
from torch import Tensor

from mmfasternet.checkpoints.allowlist import trust_checkpoints
from mmfasternet.checkpoints.contents import dataset_meta_of, state_dict_of, taken_weights, weights_of
from mmfasternet.checkpoints.reading import CLASSES_ENTRY, read_checkpoint
from mmfasternet.errors import CheckpointError, UserError
from mmfasternet.files import atomic_path, cannot_write, check_file
from mmfasternet.installed import require
from mmfasternet.models.weights.layouts import WeightsKind, convert, recognize


def convert_checkpoint(source: str, target: str, to: str = 'mmfasternet') -> Tuple[WeightsKind, WeightsKind]:
    """Write the weights of a checkpoint in another layout.

    Weights and class names are kept; the training state is dropped. Our
    layout, and detectors in the official layout, have MMEngine's form
    (``state_dict`` and ``meta``); classifiers in the official and timm layouts
    and bare backbones are plain state dicts.

    Args:
        source: Path or URL.
        target: The file to write, which must not exist: ``.safetensors``, or
            PyTorch's format under any other name.
        to: As for :func:`~mmfasternet.checkpoints.convert`.
            Defaults to ``'mmfasternet'``.

    Returns:
        The kinds of the source and of the written weights.

    Raises:
        CheckpointError: If the source can't be read or is not a FasterNet, or
            has weights that the other layout has no name for.
        UserError: If the target can't be written.
    """
    _check_target(target)
    content = read_checkpoint(source)
    weights = weights_of(content, source)
    try:
        converted = convert(weights, to)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint '{source}' {error}") from None
    kind, new_kind = recognize(weights), recognize(converted)
    assert kind and new_kind  # else they could not be converted
    dataset_meta = dataset_meta_of(content) or {}
    classes = _classes(content)
    if to == 'mmfasternet' or new_kind.model == 'detector':
        meta = dict(content['meta']) if isinstance(content.get('meta'), dict) else {}
        if dataset_meta and to == 'mmfasternet':
            meta['dataset_meta'] = dataset_meta
        elif dataset_meta:
            meta.update({key.upper(): value for key, value in dataset_meta.items()})
        _write(Path(target), dict(meta=meta, state_dict=converted), classes)
    else:
        _write(Path(target), converted, classes)
    return kind, new_kind


def publish_checkpoint(source: str, target: str) -> Tuple[Path, List[str]]:
    """Write a checkpoint without its training state, named by its content.

    Args:
        source: Path or URL.
        target: The file's name; the first eight digits of the file's SHA-256
            are inserted before its suffix, as in ``name-1a2b3c4d.pth``.

    Returns:
        The written file, with ``meta`` and ``state_dict`` of the source or its
        weights alone; and the names of what was dropped.

    Raises:
        CheckpointError: If the source can't be read.
        UserError: If the file can't be written.
    """
    check_file(Path(target).parent / f'{Path(target).name}-12345678')  # as long as its name will be
    content = read_checkpoint(source)
    weights_of(content, source)
    name, weights = taken_weights(content)
    kept = dict(meta=content.get('meta', {}), state_dict=weights) if name else content
    dropped = sorted(str(key) for key in content if name and key not in ('meta', name))
    return _write(Path(target), kept, _classes(content), named=True), dropped


def _classes(content: Dict[str, Any]) -> Tuple[str, ...]:
    return tuple((dataset_meta_of(content) or {}).get('classes') or ())


def _check_target(target: str) -> None:
    check_file(target)
    if Path(target).exists():
        raise UserError(f"'{target}' already exists and was not changed. Remove it or choose another file")


def _write(path: Path, content: Dict[str, Any], classes: Tuple[str, ...], named: bool = False) -> Path:
    """Write a checkpoint atomically; with ``named``, the hash is added to the name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        data, target = _serialized(path, content, classes), path
        if named:
            target = path.with_name(f'{path.stem}-{hashlib.sha256(data).hexdigest()[:8]}{path.suffix}')
            _check_target(str(target))
        with atomic_path(target) as unfinished, trust_checkpoints(False):
            unfinished.write_bytes(data)
            read_checkpoint(str(unfinished))  # what was trusted on reading may not be plain data
    except CheckpointError as error:
        raise CheckpointError(f"'{path}' was not written, because it could not be read back: {error}") from None
    except OSError as error:
        raise UserError(cannot_write(path, error)) from None
    except (RuntimeError, ValueError) as error:
        raise UserError(f"'{path}' can't be written: {str(error).splitlines()[0]}") from None
    return target


def _serialized(path: Path, content: Dict[str, Any], classes: Tuple[str, ...]) -> bytes:
    if path.suffix == '.safetensors':
        # One entry: safetensors writes several in any order, so that the same content would get another hash.
        metadata = {CLASSES_ENTRY: json.dumps(classes)} if classes else dict(format='pt')
        return require('safetensors.torch').save(_apart(state_dict_of(content, str(path))), metadata)
    buffer = io.BytesIO()  # into a file, its path would become part of the content
    torch.save(content, buffer)
    return buffer.getvalue()


def _apart(weights: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Contiguous tensors, each with its own storage, as safetensors requires."""
    taken, apart = set(), {}
    for key, value in weights.items():
        if not isinstance(value, Tensor):
            raise ValueError(f'{key} is a {type(value).__name__}, but .safetensors holds tensors only')
        storage = value.untyped_storage().data_ptr()
        apart[key] = value.clone() if storage in taken else value.contiguous()
        taken.add(storage)
    return apart
