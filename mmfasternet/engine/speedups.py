"""What makes training faster and leaves the recipe alone: what the command line says of it, applied."""

import argparse
from dataclasses import dataclass, replace
from typing import Any, Dict, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmfasternet.deploy.compiling import check_compiler
from mmfasternet.deploy.conversion import feed_mmcv_contiguous
from mmfasternet.engine.config import enable_amp
from mmfasternet.engine.mixed_precision import keep_float32
from mmfasternet.errors import ArgumentError

#: Types of automatic mixed precision, the one that suits more GPUs first.
AMP_TYPES = ('float16', 'bfloat16')


@dataclass(frozen=True)
class SpeedUps:
    """How a model is trained.

    Attributes:
        amp: With automatic mixed precision in ``'float16'``, with dynamic loss
            scaling, or in ``'bfloat16'``, with RoIs and mmcv's operators in
            float32. ``'auto'`` becomes bfloat16 where the GPU computes in it
            natively, else float16. None is without.
        channels_last: With weights and feature maps in channels-last format.
        compile: With backbone and neck compiled by ``torch.compile``, for
            images of any size; in channels-last format, since PyTorch 2.11
            fails to compile FasterNet-S for any size without.
    """
    amp: Optional[str] = None
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.amp == 'auto':
            object.__setattr__(self, 'amp', native_amp_types()[-1])
        if self.amp not in (None, *AMP_TYPES):
            raise ArgumentError(f"amp must be None, auto, {' or '.join(AMP_TYPES)}, got {self.amp!r}")
        if self.compile:
            object.__setattr__(self, 'channels_last', True)

    @classmethod
    def of(cls, args: argparse.Namespace) -> 'SpeedUps':
        """Those of the command line."""
        return cls(args.amp, args.channels_last, args.compile)

    @classmethod
    def parse(cls, form: str) -> 'SpeedUps':
        """Those of a text such as ``'plain'`` or ``'float16+channels-last'``; ``'amp'`` is the type that suits the GPU.

        Raises:
            ArgumentError: If it holds something else.
        """
        parts = [] if form == 'plain' else form.split('+')
        types = [part for part in parts if part in ('amp', *AMP_TYPES)]
        if len(types) > 1 or set(parts) - {*types, 'channels-last', 'compile'}:
            raise ArgumentError(f"'{form}' must be plain, or of {' or '.join(AMP_TYPES)}, channels-last and compile, "
                                f'joined by +')
        amp = types[0].replace('amp', 'auto') if types else None
        return cls(amp, 'channels-last' in parts, 'compile' in parts)

    @property
    def form(self) -> str:
        """``'plain'``, or what is on, joined by ``+``."""
        parts = (self.amp, 'channels-last' if self.channels_last else None, 'compile' if self.compile else None)
        return '+'.join(filter(None, parts)) or 'plain'

    def apply_to_config(self, cfg: Config) -> None:
        """Do, in place, what is the optimizer's.

        Raises:
            UserError: If there is no GPU, which AMP needs, or no C++ compiler,
                which compiling for a CPU needs.
        """
        if self.amp:
            enable_amp(cfg, self.amp)
        if self.compile and not torch.cuda.is_available():
            check_compiler()

    def apply_to_model(self, model: nn.Module) -> None:
        """Do, in place, what is the model's; names and values of its weights stay as they are."""
        if self.amp == 'bfloat16':
            keep_float32(model)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
            feed_mmcv_contiguous(model)
        if self.compile:
            for name in ('backbone', 'neck'):
                part = getattr(model, name, None)
                if isinstance(part, nn.Module):
                    part.compile(dynamic=True)


def native_amp_types() -> Tuple[str, ...]:
    """Those of :data:`AMP_TYPES` that the GPU computes in, and does not only emulate."""
    return AMP_TYPES if torch.cuda.is_bf16_supported(including_emulation=False) else AMP_TYPES[:1]


class SpeedUpHook(Hook):
    """Brings the model into the form it is trained in, once its weights are there.

    A config may name the type of automatic mixed precision by itself.

    Args:
        options: The form.
    """

    def __init__(self, options: SpeedUps) -> None:
        self.options = options

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        # Training in bfloat16 has no loss scale, and may go on in float16 on another GPU.
        if checkpoint.get('optimizer', {}).get('loss_scaler') == {}:
            del checkpoint['optimizer']['loss_scaler']

    def before_train(self, runner: Runner) -> None:
        model, options = runner.model, self.options
        if getattr(runner.optim_wrapper, 'cast_dtype', None) == torch.bfloat16:
            options = replace(options, amp='bfloat16')
        options.apply_to_model(model.module if is_model_wrapper(model) else model)
