"""Checks before a run starts, so that it does not fail an hour later or with a long traceback."""

from typing import Any, Dict, Sequence

from mmengine.config import Config
from mmengine.model import BaseTTAModel, PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS, DefaultScope
from torch import nn

from mmfasternet.checkpoints import check_fits, check_pretrained, check_start, read_ahead
from mmfasternet.checkpoints.download import is_local
from mmfasternet.config_tree import walk
from mmfasternet.datasets.dataset_checks import DatasetChecks
from mmfasternet.engine.config import is_kind_of, scope_of
from mmfasternet.engine.processes import is_first_process
from mmfasternet.errors import UserError
from mmfasternet.models import FasterNet


def check_complete(cfg: Config, trains: bool) -> None:
    """Check that a config has all parts of a run; a training may be without a validation.

    Raises:
        UserError: If it has none, or only some of those that belong together.
    """
    for split in ('train', 'val') if trains else ('test', ):
        last = 'optim_wrapper' if split == 'train' else f'{split}_evaluator'
        names = (*(('model', ) if split != 'val' else ()), f'{split}_dataloader', f'{split}_cfg', last)
        missing = [name for name in names if cfg.get(name) is None]
        if split == 'val' and len(missing) in (0, len(names)):
            continue
        if missing:
            without = f'. Without a validation, all of {", ".join(names)} are None' if split == 'val' else ''
            raise UserError(f"config '{cfg.filename}' has no {' and no '.join(missing)}, which "
                            f"{'training' if split == 'train' else 'validation' if split == 'val' else 'testing'} "
                            f'needs{without}')


def check_data(cfg: Config, splits: Sequence[str]) -> None:
    """Check the data that a config names.

    Args:
        cfg: The config.
        splits: The splits in use, of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        DataError: See :meth:`~mmfasternet.datasets.dataset_checks.DatasetChecks.check`.
    """
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        checks = DatasetChecks(cfg.model, reads_files=is_first_process())
        for split in splits:
            checks.check(cfg.get(f'{split}_dataloader'), cfg.get(f'{split}_evaluator'), split)


def check_checkpoints(cfg: Config, model: nn.Module, trains: bool) -> None:
    """Read the checkpoints that a run will load, and check that they fit; MMEngine then gets what was read.

    Args:
        cfg: The config of the run: checked are its ``load_from``, and for a
            training its ``resume`` and ``init_cfg``.
        model: Its model.
        trains: Whether it is a training. If it starts from a checkpoint
            without resuming it, only the backbone must fit.

    Raises:
        CheckpointError: If a checkpoint is missing or broken, or does not
            hold what is needed.
    """
    path = cfg.get('load_from')
    if path:
        check_weights(model, read_ahead(path), path, starts=trains and not cfg.get('resume'))
    if not trains:
        return
    for module in model.modules():
        if isinstance(module, FasterNet):
            for node in _pretrained(module.init_cfg, scope_of(cfg)):
                path = node['checkpoint']
                # Unconverted: a classifier may have any head.
                check_pretrained(module, read_ahead(path, converted=False), path, node.get('prefix'))
    for node in _pretrained(cfg.model, scope_of(cfg)):
        if is_local(node['checkpoint']):
            read_ahead(node['checkpoint'], converted=False)


def check_weights(model: nn.Module, content: Dict[str, Any], path: str, starts: bool = False) -> None:
    """Check that a checkpoint holds all weights of a model, which may be wrapped for test-time augmentation.

    Args:
        model: The model.
        content: The checkpoint's content.
        path: Its path, for the error.
        starts: Whether a training starts from it: then only the backbone must
            fit. Defaults to False.

    Raises:
        CheckpointError: If not.
    """
    (check_start if starts else check_fits)(model.module if isinstance(model, BaseTTAModel) else model, content, path)


def _pretrained(config: Any, scope: str) -> Sequence[Dict[str, Any]]:
    """The paths and URLs of pre-trained weights in a part of a config."""
    return [node for _, node in walk(config)
            if node.get('checkpoint') and is_kind_of(node, PretrainedInit, WEIGHT_INITIALIZERS, scope)]
