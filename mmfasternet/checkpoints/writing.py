"""Checkpoints written whole or not at all: converted to another layout, or made ready to publish."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Tuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmfasternet.checkpoints.contents import dataset_meta_of, state_dict_of
from mmfasternet.checkpoints.fitting import listed
from mmfasternet.checkpoints.layouts import LAYOUTS, WeightsKind, convert, recognize
from mmfasternet.checkpoints.reading import read_checkpoint
from mmfasternet.errors import CheckpointError, UserError

#: What :func:`convert_checkpoint` converts to.
TARGETS = (*LAYOUTS, 'backbone')


def convert_checkpoint(source: str, target: str, to: str = 'mmfasternet') -> Tuple[WeightsKind, WeightsKind]:
    """Write the weights of a checkpoint by the names of another layout.

    Weights and class names are kept; the state of a training is left out.
    What becomes ours, and detectors in the official layout, have MMEngine's
    form (``state_dict`` and ``meta``); official and timm's classifiers and
    bare backbones are plain state dicts.

    Args:
        source: Path or URL.
        target: The file to write, which must not exist: ``.safetensors``, or
            PyTorch's format under any other name.
        to: One of :data:`TARGETS`, as for
            :func:`~mmfasternet.checkpoints.convert`.
            Defaults to ``'mmfasternet'``.

    Returns:
        What the source holds and what was written.

    Raises:
        CheckpointError: If the source can't be read or is no FasterNet, or
            has weights without a place in the other layout.
        UserError: If the target can't be written.
    """
    _check_target(target)
    content = read_checkpoint(source)
    weights = state_dict_of(content, source)
    try:
        converted = convert(weights, to)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint '{source}' {error}") from None
    kind, new_kind = recognize(weights), recognize(converted)
    dataset_meta = dataset_meta_of(content) or {}
    classes = tuple(dataset_meta.get('classes') or ())
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


def publish_checkpoint(source: str, target: str) -> Path:
    """Write a checkpoint without the state of its training, named by its content.

    Args:
        source: Path or URL.
        target: The file's name; the first eight digits of the file's SHA-256
            are put before its suffix, as in ``name-1a2b3c4d.pth``.

    Returns:
        The file written: ``meta`` and ``state_dict`` of the source.

    Raises:
        CheckpointError: If the source can't be read.
        UserError: If the file can't be written.
    """
    content = read_checkpoint(source)
    weights = state_dict_of(content, source)
    if not weights:
        raise CheckpointError(f"checkpoint '{source}' has no weights in it, but {listed(list(map(str, content)), 5)}")
    if 'state_dict' in content:
        weights = {key: content[key] for key in ('meta', 'state_dict') if key in content}
    classes = (dataset_meta_of(content) or {}).get('classes') or ()
    return _write(Path(target), weights, classes, named=True)


def _check_target(target: str) -> None:
    if Path(target).exists():
        raise UserError(f"'{target}' exists already and is left as it is. Remove it or name another file")


def _write(path: Path, content: Dict[str, Any], classes: Tuple[str, ...], named: bool = False) -> Path:
    """Write to a file beside ``path`` that then takes its name; with ``named``, the name gets the hash."""
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.safetensors':
            # One entry: safetensors writes several in any order, and the same content gets another hash.
            metadata = dict(classes=json.dumps(list(classes))) if classes else dict(format='pt')
            save_file(_apart(state_dict_of(content, str(path))), unfinished, metadata)
        else:
            with unfinished.open('wb') as file:  # by a path, the path would become part of the content
                torch.save(content, file)
        if named:
            digest = hashlib.sha256(unfinished.read_bytes()).hexdigest()
            path = path.with_name(f'{path.stem}-{digest[:8]}{path.suffix}')
            _check_target(str(path))
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:  # PyTorch's writer raises the latter when the disk is full
        raise UserError(f"'{path}' can't be written: {str(error).splitlines()[0]}") from None
    finally:
        with suppress(OSError):
            unfinished.unlink()
    return path


def _apart(weights: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Contiguous tensors with a storage each, as safetensors needs them."""
    taken, apart = set(), {}
    for key, value in weights.items():
        storage = value.untyped_storage().data_ptr()
        apart[key] = value.clone() if storage in taken else value.contiguous()
        taken.add(storage)
    return apart
