"""The inference form in tests and benchmarks."""

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import torch
from mmcv.transforms import Resize
from mmengine.config import Config
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import TRANSFORMS
from torch import nn

from mmfasternet.deploy import to_deploy
from mmfasternet.engine.config import is_classifier, is_kind_of, scope_of, test_steps
from mmfasternet.errors import UserError


@dataclass(frozen=True)
class DeployOptions:
    """How a model is converted to its inference form.

    Attributes:
        deploy: Whether it is converted at all.
        dtype: Name of the type to compute in.
        compile: Whether the networks are compiled.
        graphs: Whether a GPU replays the networks as CUDA graphs.
    """
    deploy: bool = False
    dtype: str = 'float32'
    compile: bool = False
    graphs: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace) -> 'DeployOptions':
        """The options of the command line; ``--dtype``, ``--compile`` and ``--cuda-graphs`` imply ``--deploy``."""
        deploy = args.deploy or args.compile or args.cuda_graphs or args.dtype != 'float32'
        return cls(deploy, args.dtype, args.compile, args.cuda_graphs)

    @property
    def form(self) -> str:
        """For records: ``'eager'``, ``'deploy'``, ``'deploy, compile'``, either of these with ``', CUDA graphs'``."""
        return ('deploy' if self.deploy else 'eager') + (', compile' if self.compile else '') + (
            ', CUDA graphs' if self.graphs else '')

    def apply(self, model: nn.Module, cfg: Config, sizes: Optional[Sequence[Tuple[int, int]]] = None) -> nn.Module:
        """Return a copy of the model in its inference form, or the model itself if ``deploy`` is False.

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
            raise UserError('--cuda-graphs needs a GPU, but the model is on the CPU: run without it')
        padded: Sequence[Tuple[int, int]] = ()
        if (self.compile or self.graphs) and on_gpu and not is_classifier(cfg):
            padded = image_sizes(cfg) if sizes is None else [padded_size(size, cfg) for size in sizes]
        options = dict(dtype=getattr(torch, self.dtype), compile=self.compile, sizes=padded, graphs=self.graphs)
        if isinstance(model, BaseTTAModel):
            model = copy.deepcopy(model)
            model.module = to_deploy(model.module, inplace=True, **options)
            return model
        return to_deploy(model, **options)


def is_export(checkpoint: Optional[str]) -> bool:
    """Whether it is an export: only those are folders."""
    return checkpoint is not None and Path(checkpoint).is_dir()


def image_sizes(cfg: Config) -> List[Tuple[int, int]]:
    """Heights and widths that the images of a config's test pipeline fit in: landscape, portrait, batches of both.

    They follow from its ``Resize`` with a kept aspect ratio, and the divisor
    that images are padded to.

    Raises:
        UserError: If the pipeline has no such step.
    """
    scales = [step.scale for step in test_steps(cfg)
              if 'scale' in step and is_kind_of(step, Resize, TRANSFORMS, scope_of(cfg))]
    if len(scales) != 1 or isinstance(scales[0], (int, float)):
        raise UserError('--compile and --cuda-graphs on a GPU need one Resize with a scale in the test pipeline, for '
                        'the sizes of images')
    short, long = padded_size(sorted(scales[0]), cfg)
    return [(short, long), (long, short), (long, long)]


def padded_size(size: Sequence[int], cfg: Config) -> Tuple[int, int]:
    """The height and width that a detector's preprocessor pads an image of this height and width to."""
    model = cfg.model.get('module', cfg.model)  # within test-time augmentation
    preprocessor = model.get('data_preprocessor', cfg.get('data_preprocessor')) or {}
    divisor = preprocessor.get('pad_size_divisor', 1)
    height, width = (-(-side // divisor) * divisor for side in size)
    return height, width
