"""Builds models and their inputs from a config, outside of MMEngine's runner."""

import copy
import itertools
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Union

import torch
from mmcv.transforms import Compose, LoadAnnotations, LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, DefaultScope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from mmfasternet.checkpoints import read_ahead, safe_loading
from mmfasternet.datasets.image_files import IMAGE_SUFFIXES, find_images
from mmfasternet.deploy.conversion import set_eval_mode
from mmfasternet.engine.build_errors import named_build_errors
from mmfasternet.engine.checks import check_data, check_weights
from mmfasternet.engine.config import innermost_dataset, is_kind_of, model_of, scope_of, test_steps
from mmfasternet.engine.preparing import prepare
from mmfasternet.engine.run_options import TestOptions
from mmfasternet.errors import UserError

Batch = Dict[str, Any]
_NUM_REAL_IMAGES = 4


def build_unloaded(cfg: Config) -> nn.Module:
    """Build a config's model as MMEngine's runner does, without loading weights from files.

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


class ImageBatches:
    """Batches of image files, loaded by a config's test pipeline without annotations; each is read when requested.

    Args:
        cfg: The config.
        images: The files.
        batch_size: Batch size; an incomplete last batch is dropped. Defaults
            to 1.
    """

    def __init__(self, cfg: Config, images: Sequence[str], batch_size: int = 1) -> None:
        self.scope, self.images, self.batch_size = scope_of(cfg), images, batch_size
        steps = _steps(cfg)
        if not any(is_kind_of(step, LoadImageFromFile, TRANSFORMS, self.scope) for step in steps):
            steps = [dict(type='LoadImageFromFile'), *steps]  # the config's dataset holds images, not files
        with DefaultScope.overwrite_default_scope(self.scope):
            self._pipeline = Compose(steps)

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            files = self.images[start:start + self.batch_size]
            with DefaultScope.overwrite_default_scope(self.scope):
                loaded = [self._pipeline(dict(img_path=path, img_id=start + i)) for i, path in enumerate(files)]
            yield pseudo_collate(loaded)


class TrainingBatches:
    """Images of a config's training data, loaded one by one by its test pipeline, spread over the data.

    Args:
        cfg: The config.
        at_most: Maximum number of images.

    Raises:
        UserError: If the config has no training data, or it can't be used.
    """

    def __init__(self, cfg: Config, at_most: int) -> None:
        self.scope = scope_of(cfg)
        cfg = prepare(cfg, TestOptions())  # reads the data as training does
        check_data(cfg, ('train', ))
        dataset = copy.deepcopy(innermost_dataset(cfg, 'train'))
        if 'pipeline' not in dataset:
            raise UserError(f"the training data of '{cfg.filename}' are several datasets ({dataset.get('type')}): give "
                            'a folder of images with --calibration')
        dataset.pipeline = _steps(cfg)
        with DefaultScope.overwrite_default_scope(self.scope), named_build_errors(cfg):
            self._dataset = DATASETS.build(dataset)
        count = min(at_most, len(self._dataset))
        self._indices = [index * len(self._dataset) // count for index in range(count)]

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Batch]:
        for index in self._indices:
            with DefaultScope.overwrite_default_scope(self.scope):
                sample = self._dataset[index]
            yield pseudo_collate([sample])


def calibration_batches(cfg: Config, folder: Optional[str], at_most: int
                        ) -> Union[ImageBatches, TrainingBatches]:
    """Images to calibrate on, loaded one by one by a config's test pipeline.

    Args:
        cfg: The config.
        folder: Their folder, including subfolders. None: the config's training
            data.
        at_most: Maximum number, spread over all images.

    Raises:
        UserError: If there are none, or one can't be read.
    """
    return ImageBatches(cfg, find_images(folder, at_most, tree=True)) if folder else TrainingBatches(cfg, at_most)


def _steps(cfg: Config) -> List[Dict[str, Any]]:
    """A config's test pipeline without loading of annotations."""
    return [step for step in test_steps(cfg)
            if not is_kind_of(step, LoadAnnotations, TRANSFORMS, scope_of(cfg))]


def load_batches(cfg: Config, images: Sequence[str], batch_size: int = 1) -> List[Batch]:
    """All batches of :class:`ImageBatches`."""
    return list(ImageBatches(cfg, images, batch_size))


def real_images(cfg: Config, model: nn.Module, folder: Optional[str] = None) -> List[Tensor]:
    """The first four images of a folder as the model's input: normalised, ``(1, C, H, W)``.

    Args:
        cfg: The model's config, whose test pipeline resizes them.
        model: The model, whose preprocessor normalises them.
        folder: Their folder. Defaults to None: that of the config's test data,
            if it exists.

    Raises:
        DataError: If ``folder`` is given and holds no image or a broken one.
    """
    if folder:
        paths = find_images(folder, _NUM_REAL_IMAGES)
    else:
        paths = list(itertools.islice(_test_images(cfg), _NUM_REAL_IMAGES))
    return [model.data_preprocessor(batch, False)['inputs'] for batch in load_batches(cfg, paths)]


def _test_images(cfg: Config) -> Iterator[str]:
    if not cfg.get('test_dataloader'):
        return
    dataset = innermost_dataset(cfg, first=True)
    prefix = dataset.get('data_prefix') or dataset.get('split') or ''
    prefix = (prefix.get('img', prefix.get('img_path')) or '') if isinstance(prefix, dict) else prefix
    if not (dataset.get('data_root') or prefix):
        return
    for folder, folders, names in os.walk(Path(dataset.get('data_root') or '') / prefix):
        folders.sort()  # os.walk then goes through them in this order
        yield from (str(Path(folder) / name) for name in sorted(names) if name.lower().endswith(IMAGE_SUFFIXES))
