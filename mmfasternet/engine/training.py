"""What makes training faster and leaves the recipe alone: what the command line says of it, applied."""

import argparse
from dataclasses import dataclass

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmfasternet.deploy.compiling import check_compiler
from mmfasternet.deploy.conversion import feed_mmcv_contiguous
from mmfasternet.engine.config import enable_amp
from mmfasternet.errors import ArgumentError


@dataclass(frozen=True)
class TrainingOptions:
    """How a model is trained.

    Attributes:
        amp: With automatic mixed precision, float16 with dynamic loss scaling.
        channels_last: With weights and feature maps in channels-last format.
        compile: With backbone and neck compiled by ``torch.compile``, for
            images of any size; in channels-last format, since PyTorch 2.11
            fails to compile FasterNet-S for any size without.
    """
    amp: bool = False
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.compile:
            object.__setattr__(self, 'channels_last', True)

    @classmethod
    def of(cls, args: argparse.Namespace) -> 'TrainingOptions':
        """Those of the command line."""
        return cls(args.amp, args.channels_last, args.compile)

    @classmethod
    def parse(cls, form: str) -> 'TrainingOptions':
        """Those of a text such as ``'plain'`` or ``'amp+channels-last'``.

        Raises:
            ArgumentError: If it holds something else.
        """
        known = {'amp': 'amp', 'channels-last': 'channels_last', 'compile': 'compile'}
        parts = [] if form == 'plain' else form.split('+')
        if any(part not in known for part in parts):
            raise ArgumentError(f"'{form}' must be plain, or of {', '.join(known)}, joined by +")
        return cls(**{known[part]: True for part in parts})

    @property
    def form(self) -> str:
        """``'plain'``, or what is on, joined by ``+``."""
        parts = [name.replace('_', '-') for name in ('amp', 'channels_last', 'compile') if getattr(self, name)]
        return '+'.join(parts) or 'plain'

    def apply_to_config(self, cfg: Config) -> None:
        """Do, in place, what is the optimizer's.

        Raises:
            UserError: If there is no GPU, which AMP needs, or no C++ compiler,
                which compiling for a CPU needs.
        """
        if self.amp:
            enable_amp(cfg)
        if self.compile and not torch.cuda.is_available():
            check_compiler()

    def apply_to_model(self, model: nn.Module) -> None:
        """Do, in place, what is the model's; names and values of its weights stay as they are."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
            feed_mmcv_contiguous(model)
        if self.compile:
            for name in ('backbone', 'neck'):
                part = getattr(model, name, None)
                if isinstance(part, nn.Module):
                    part.compile(dynamic=True)


class TrainingHook(Hook):
    """Brings the model into the form it is trained in, once its weights are there.

    Args:
        options: The form.
    """

    def __init__(self, options: TrainingOptions) -> None:
        self.options = options

    def before_train(self, runner: Runner) -> None:
        model = runner.model
        self.options.apply_to_model(model.module if is_model_wrapper(model) else model)
