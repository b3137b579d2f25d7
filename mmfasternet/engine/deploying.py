"""The inference form in tests and benchmarks: what the command line says of it, applied."""

import argparse
import copy
import gc
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmfasternet.deploy import to_deploy
from mmfasternet.engine.config import innermost_dataset, is_classifier
from mmfasternet.errors import UserError


@dataclass(frozen=True)
class DeployOptions:
    """How a model is brought into its inference form.

    Attributes:
        deploy: Whether it is at all.
        dtype: Name of the type it computes in.
        compile: Whether its networks are compiled.
        graphs: Whether a GPU replays them as CUDA graphs.
    """
    deploy: bool = False
    dtype: str = 'float32'
    compile: bool = False
    graphs: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace) -> 'DeployOptions':
        """Those of the command line; ``--dtype``, ``--compile`` and ``--cuda-graphs`` imply ``--deploy``."""
        deploy = args.deploy or args.compile or args.cuda_graphs or args.dtype != 'float32'
        return cls(deploy, args.dtype, args.compile, args.cuda_graphs)

    @property
    def form(self) -> str:
        """For records: ``'eager'``, ``'deploy'``, ``'deploy, compile'``, either of these with ``', CUDA graphs'``."""
        return ('deploy' if self.deploy else 'eager') + (', compile' if self.compile else '') + (
            ', CUDA graphs' if self.graphs else '')

    def apply(self, model: nn.Module, cfg: Config, sizes: Optional[Sequence[Tuple[int, int]]] = None) -> nn.Module:
        """Give a copy of the model in its inference form, or the model itself if none is wanted.

        Args:
            model: Model of ``cfg``, which may be wrapped for several processes
                or for test-time augmentation.
            cfg: Its config.
            sizes: Heights and widths of the images that a compiled or recorded
                detector gets on a GPU. Defaults to None, those of the config's test
                pipeline.
        """
        if not self.deploy:
            return model
        model = model.module if is_model_wrapper(model) else model
        on_gpu = any(p.is_cuda for p in model.parameters())
        if self.graphs and not on_gpu:
            raise UserError('--cuda-graphs needs a GPU, and the model is on the CPU: leave it out')
        padded: Sequence[Tuple[int, int]] = ()
        if (self.compile or self.graphs) and on_gpu and not is_classifier(cfg):
            padded = image_sizes(cfg) if sizes is None else [padded_size(size, cfg) for size in sizes]
        options = dict(dtype=getattr(torch, self.dtype), compile=self.compile, sizes=padded, graphs=self.graphs)
        if isinstance(model, BaseTTAModel):
            model = copy.deepcopy(model)
            model.module = to_deploy(model.module, inplace=True, **options)
            return model
        return to_deploy(model, **options)


class DeployHook(Hook):
    """Has a test loop run the model in its inference form, and gives the model back afterwards.

    Args:
        options: The form.
    """

    priority = 'VERY_LOW'  # behind hooks that exchange weights, such as averaged ones

    def __init__(self, options: DeployOptions) -> None:
        self.options = options
        self._model: Optional[nn.Module] = None

    def before_test_epoch(self, runner: Runner) -> None:
        self._model = runner.model
        runner.model = self.options.apply(runner.model, runner.cfg)

    def after_test_epoch(self, runner: Runner, metrics: Optional[dict] = None) -> None:
        runner.model, self._model = self._model, None
        gc.collect()  # graphs and what they replay hold each other, and the GPU's memory


def use_exported(cfg: Config, folder: str, options: DeployOptions) -> None:
    """Have a detector's config run exported files in the place of its networks.

    Raises:
        UserError: If the model is a classifier, or the options are for PyTorch.
    """
    if is_classifier(cfg):
        raise UserError(f"'{folder}' is a folder: a classifier needs a checkpoint file. Only detectors run exported "
                        f'files here')
    if options.compile or options.graphs or (options.deploy and options.dtype == 'float32'):
        raise UserError(f"--deploy, --compile and --cuda-graphs are for checkpoints: '{folder}' holds files in "
                        f'inference form')
    if cfg.get('launcher', 'none') != 'none':
        raise UserError('exported files are run by one process: leave out --launcher')
    cfg.model = exported_cfg(cfg.model, folder, options.dtype)


def exported_cfg(model: ConfigDict, folder: str, dtype: str) -> ConfigDict:
    """Config of the :class:`ExportedDetector` of a detector; within test-time augmentation if the model has that."""
    if 'module' in model:
        return ConfigDict(**{**model, 'module': exported_cfg(model.module, folder, dtype)})
    return ConfigDict(type='mmfasternet.ExportedDetector', detector=model, exported=folder, dtype=dtype)


def is_export(checkpoint: str) -> bool:
    """Whether it is a folder, which only exports are."""
    return Path(checkpoint).is_dir()


def image_sizes(cfg: Config) -> List[Tuple[int, int]]:
    """Heights and widths, lying and standing, that hold all images of a config's test pipeline; and batches of both.

    They follow from its ``Resize`` with the aspect ratio kept, and the
    divisor that images are padded to.

    Raises:
        UserError: If the pipeline has no such step.
    """
    pipeline = innermost_dataset(cfg).get('pipeline', [])
    scales = [step.scale for step in pipeline if step.type == 'Resize' and 'scale' in step]
    if len(scales) != 1 or isinstance(scales[0], (int, float)):
        raise UserError('--compile and --cuda-graphs on a GPU need one Resize with a scale in the test pipeline, for '
                        'the sizes of images')
    short, long = padded_size(sorted(scales[0]), cfg)
    return [(short, long), (long, short), (long, long)]


def padded_size(size: Sequence[int], cfg: Config) -> Tuple[int, int]:
    """The height and width that a detector's preprocessor pads an image of this height and width to."""
    model = cfg.model.get('module', cfg.model)  # within test-time augmentation
    divisor = model.get('data_preprocessor', {}).get('pad_size_divisor', 1)
    height, width = (-(-side // divisor) * divisor for side in size)
    return height, width
