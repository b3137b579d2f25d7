"""Lets MMEngine load published weights of any layout."""

import os
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional

import torch
from mmengine.runner import CheckpointLoader

from mmfasternet import compat
from mmfasternet.checkpoints.allowlist import ALLOWED, FORCE, LOCK, is_trusting
from mmfasternet.checkpoints.contents import dataset_meta_of, state_dict_of
from mmfasternet.checkpoints.reading import read_checkpoint
from mmfasternet.errors import CheckpointError
from mmfasternet.models.weights.layouts import convert, recognize

_FORCE_NOT = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'


class _SafeLoading:
    """What :func:`safe_loading` changes in the process, and what was there before."""

    users = 0
    variables: Dict[str, Optional[str]]
    globals: List[Any]
    schemes: Dict[str, Any]
    kept: Dict[str, Dict[str, Any]] = {}  # by path, what read_ahead has read

    @classmethod
    def enter(cls) -> None:
        with LOCK:
            cls.users += 1
            if cls.users > 1:
                return
            cls.variables = {name: os.environ.pop(name, None) for name in (FORCE, _FORCE_NOT)}
            if not is_trusting():
                os.environ[FORCE] = '1'
            cls.globals = torch.serialization.get_safe_globals()
            torch.serialization.add_safe_globals(list(ALLOWED))
            cls.schemes = compat.checkpoint_schemes()
            # All of them: MMEngine's maintained release unpickles whatever safe loading refuses, and allows getattr.
            CheckpointLoader.register_scheme(list(cls.schemes), load_from_mmfasternet, force=True)

    @classmethod
    def leave(cls) -> None:
        with LOCK:
            cls.users -= 1
            if cls.users:
                return
            cls.kept.clear()
            for prefix, loader in cls.schemes.items():
                CheckpointLoader.register_scheme(prefix, loader, force=True)
            added = [each for each in torch.serialization.get_safe_globals() if each not in ALLOWED]
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals([*cls.globals, *added])  # others may have added theirs meanwhile
            for name, value in cls.variables.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


@contextmanager
def safe_loading() -> Iterator[None]:
    """Within it, MMEngine and libraries built on it read checkpoints with :func:`load_for_mmengine`.

    Any other ``torch.load`` of the process is safe, too, unless
    :func:`~mmfasternet.checkpoints.trust_checkpoints` was active when it
    began. Several threads may be within it.
    """
    _SafeLoading.enter()
    try:
        yield
    finally:
        _SafeLoading.leave()


def read_ahead(path: str, converted: bool = True) -> Dict[str, Any]:
    """Read a checkpoint, and keep it for the next load within :func:`safe_loading`.

    The next load is one call of :func:`load_for_mmengine`, also by MMEngine,
    or of :func:`~mmfasternet.checkpoints.load_pretrained_backbone`. It gets
    the same tensors, and may change or keep them: they are dropped here then,
    and also when the outermost :func:`safe_loading` ends. Outside of it,
    nothing is kept. If it is requested again before that, it is not read
    again.

    Args:
        path: Path or URL, spelt as in the later load.
        converted: Return it as :func:`load_for_mmengine` does, and not as it
            is in the file. The unconverted content is enough for backbones,
            also from classifiers with other heads. Defaults to True.

    Raises:
        CheckpointError: If it can't be read, or its keys are not a complete
            FasterNet and ``converted`` is set.
    """
    with LOCK:
        content = _SafeLoading.kept.get(path)
    if content is None:
        content = read_checkpoint(path)
    with LOCK:
        if _SafeLoading.users:
            _SafeLoading.kept[path] = content
    return _for_mmengine(content, path) if converted else content


def read_once(path: str, map_location: Any = 'cpu') -> Dict[str, Any]:
    """:func:`read_checkpoint`, or what :func:`read_ahead` kept, which is then dropped."""
    with LOCK:
        content = _SafeLoading.kept.pop(path, None)
    # What was kept is on the CPU, whatever map_location says. That is fine for MMEngine's Runner.load_checkpoint and
    # resume: load_state_dict of models, of their EMA and of optimizers copies to where the parameters are. (An
    # optimizer's step counts stay on the CPU unless it is fused or capturable, as in a training that was not
    # interrupted.)
    return read_checkpoint(path, map_location) if content is None else content


def load_from_mmfasternet(path: str, map_location: Any = None) -> Dict[str, Any]:
    """:func:`load_for_mmengine` under a name that reads well in MMEngine's log."""
    return load_for_mmengine(path, map_location)


def load_for_mmengine(path: str, map_location: Any = 'cpu') -> Dict[str, Any]:
    """Read a checkpoint; FasterNet's weights get our names, whatever layout they are in.

    This is what MMEngine's ``CheckpointLoader`` calls within
    :func:`safe_loading`.

    Args:
        path: Path or URL.
        map_location: As ``torch.load`` takes it. Defaults to ``'cpu'``.

    Returns:
        The content. FasterNet's weights are under ``state_dict``, the
        backbone's with the prefix ``backbone.``; class names are where
        MMDetection 3.x looks for them. Checkpoints of other networks are
        unchanged.

    Raises:
        CheckpointError: If it can't be read, or its keys are not a complete
            FasterNet.
    """
    return _for_mmengine(read_once(path, map_location), path)


def _for_mmengine(content: Dict[str, Any], path: str) -> Dict[str, Any]:
    if path.startswith('mmcls://'):  # these are used as backbones
        content = compat.mmcls_backbone(content)
    weights = state_dict_of(content, path)
    kind = recognize(weights)
    if kind is None:
        return content
    meta = dict(content['meta']) if isinstance(content.get('meta'), dict) else {}
    dataset_meta = dataset_meta_of(content)
    if dataset_meta:
        meta['dataset_meta'] = dataset_meta
    try:
        converted = convert(weights, strict=kind.layout != 'mmfasternet')
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint '{path}' {error}") from None
    if kind.layout == 'mmfasternet' and 'state_dict' in content:
        return dict(content, state_dict=converted, meta=meta)
    return dict(state_dict=converted, meta=meta)
