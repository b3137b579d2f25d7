"""Models and their inputs by a config, outside of MMEngine's runner."""

import itertools
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

import torch
from mmcv.transforms import Compose, LoadAnnotations
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from mmfasternet.checkpoints import read_ahead, safe_loading
from mmfasternet.datasets.image_files import IMAGE_SUFFIXES, find_images
from mmfasternet.deploy.conversion import set_eval_mode
from mmfasternet.engine.build_errors import named_build_errors
from mmfasternet.engine.checks import check_weights
from mmfasternet.engine.config import innermost_dataset, is_kind_of, model_of, scope_of

Batch = Dict[str, Any]
_NUM_REAL_IMAGES = 4


def build_unloaded(cfg: Config) -> nn.Module:
    """Build a config's model as MMEngine's runner does, without weights from any file.

    Raises:
        UserError: If it can't be built.
    """
    with DefaultScope.overwrite_default_scope(scope_of(cfg)), named_build_errors(cfg):
        return MODELS.build(model_of(cfg))  # a copy: some detectors write into their config


def build_model(cfg: Config, checkpoint: Optional[str] = None, device: Optional[torch.device] = None) -> nn.Module:
    """Build a config's model in eval mode, with its weights.

    Args:
        cfg: Config of a classifier or a detector.
        checkpoint: Path or URL of all its weights. Defaults to None, random
            ones.
        device: Where it goes. Defaults to None, the CPU.

    Raises:
        UserError: If the model can't be built or the checkpoint does not fit.
    """
    model = build_unloaded(cfg)
    if checkpoint:
        with safe_loading():
            check_weights(model, read_ahead(checkpoint), checkpoint)
            load_checkpoint(model, checkpoint, map_location='cpu')
    model.to(device or torch.device('cpu'))
    set_eval_mode(model)
    return model


def load_batches(cfg: Config, images: Sequence[str], batch_size: int = 1) -> List[Batch]:
    """Image files in batches by the config's test pipeline, without annotations; the last one only if it is full."""
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        steps = innermost_dataset(cfg).pipeline
        pipeline = Compose([step for step in steps if not is_kind_of(step, LoadAnnotations, TRANSFORMS, scope_of(cfg))])
        loaded = [pipeline(dict(img_path=path, img_id=i)) for i, path in enumerate(images)]
    return [pseudo_collate(loaded[start:start + batch_size])
            for start in range(0, len(loaded) - batch_size + 1, batch_size)]


def real_images(cfg: Config, model: nn.Module, folder: Optional[str] = None) -> List[Tensor]:
    """The first four images of a folder as a model gets them: normalised, ``(1, C, H, W)``.

    Args:
        cfg: The model's config, whose test pipeline resizes them.
        model: The model, whose preprocessor normalises them.
        folder: Their folder. Defaults to None: that of the config's test
            data, if it is there.

    Raises:
        DataError: If ``folder`` is given and holds none, or a broken one.
    """
    if folder:
        paths = find_images(folder, _NUM_REAL_IMAGES)
    else:
        paths = list(itertools.islice(_test_images(cfg), _NUM_REAL_IMAGES))
    return [model.data_preprocessor(batch, False)['inputs'] for batch in load_batches(cfg, paths)]


def _test_images(cfg: Config) -> Iterator[str]:
    if not cfg.get('test_dataloader'):
        return
    dataset = innermost_dataset(cfg)
    prefix = dataset.get('data_prefix') or dataset.get('split') or ''
    prefix = (prefix.get('img', prefix.get('img_path')) or '') if isinstance(prefix, dict) else prefix
    if not (dataset.get('data_root') or prefix):
        return
    for folder, folders, names in os.walk(Path(dataset.get('data_root') or '') / prefix):
        folders.sort()  # os.walk then goes through them in this order
        yield from (str(Path(folder) / name) for name in sorted(names) if name.lower().endswith(IMAGE_SUFFIXES))
