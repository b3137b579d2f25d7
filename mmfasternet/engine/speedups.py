"""Speed-ups of training that keep the recipe."""

import argparse
from dataclasses import dataclass
from typing import Optional, Tuple

import torch
from torch import nn

from mmfasternet.deploy.conversion import feed_mmcv_contiguous
from mmfasternet.engine.mixed_precision import KeptFloat32, keep_float32
from mmfasternet.errors import ArgumentError

#: Types of automatic mixed precision, the one that suits more GPUs first.
AMP_TYPES = ('float16', 'bfloat16')


@dataclass(frozen=True)
class SpeedUps:
    """How a model is trained.

    Attributes:
        amp: Automatic mixed precision in ``'float16'``, with dynamic loss
            scaling, or in ``'bfloat16'``, with RoIs and mmcv's operators in
            float32. ``'auto'`` is bfloat16 if the GPU supports it natively,
            else float16. None: off.
        channels_last: Channels-last weights and feature maps.
        compile: Backbone and neck compiled with ``torch.compile``, for images
            of any size; in channels-last format, because PyTorch 2.11 fails to
            compile FasterNet-S for any size without it.
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
        """The options of the command line."""
        return cls(args.amp, args.channels_last, args.compile)

    @classmethod
    def parse(cls, form: str) -> 'SpeedUps':
        """Parse a string such as ``'plain'`` or ``'float16+channels-last'``; ``'amp'`` is the best type for the GPU.

        Raises:
            ArgumentError: If the string is not valid.
        """
        parts = [] if form == 'plain' else form.split('+')
        types = [part for part in parts if part in ('amp', *AMP_TYPES)]
        if len(types) > 1 or set(parts) - {*types, 'channels-last', 'compile'}:
            raise ArgumentError(f"'{form}' must be plain, or a combination of {' or '.join(AMP_TYPES)}, channels-last "
                                'and compile, joined by +')
        amp = types[0].replace('amp', 'auto') if types else None
        return cls(amp, 'channels-last' in parts, 'compile' in parts)

    @property
    def form(self) -> str:
        """``'plain'``, or the active options joined by ``+``."""
        parts = (self.amp, 'channels-last' if self.channels_last else None, 'compile' if self.compile else None)
        return '+'.join(filter(None, parts)) or 'plain'

    def apply_to_model(self, model: nn.Module) -> Optional[KeptFloat32]:
        """Apply to a model in place; names and values of its weights do not change.

        Returns:
            A handle that restores mmcv's operators, if they were changed; else
            None.
        """
        kept = keep_float32(model) if self.amp == 'bfloat16' else None
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
            feed_mmcv_contiguous(model)
        if self.compile:
            for name in ('backbone', 'neck'):
                part = getattr(model, name, None)
                if isinstance(part, nn.Module):
                    part.compile(dynamic=True)
        return kept


def native_amp_types() -> Tuple[str, ...]:
    """Those of :data:`AMP_TYPES` that the GPU supports natively, without emulation."""
    return AMP_TYPES if torch.cuda.is_bf16_supported(including_emulation=False) else AMP_TYPES[:1]
