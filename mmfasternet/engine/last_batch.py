"""Detects batches that a batch norm can't train on: one image with a 1x1 map, such as the last batch of an epoch."""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional, Sized, Tuple

import torch
from mmengine.model import is_model_wrapper
from torch import nn
from torch.utils.data import DataLoader

from mmfasternet.compat import compiled_call, fake_copy
from mmfasternet.errors import UserError

_REFUSAL = 'Expected more than 1 value per channel when training'  # PyTorch's
_REMEDY = 'Set train_dataloader.drop_last=True, another train_dataloader.batch_size, or norm_eval=True of the backbone'


def check_last_batch(loader: DataLoader, model: nn.Module, batch: Dict[str, Any]) -> None:
    """Check, on shapes alone, that a model can train on the last batch of an epoch if it holds one image.

    Args:
        loader: The data loader of the training.
        model: The model, which is not changed.
        batch: A batch of the loader. The shape of the last batch is known only if all images of this one have the same
            shape.

    Raises:
        UserError: If a batch norm of backbone or neck would get one value per channel.
    """
    batches = loader.batch_sampler
    size = getattr(batches, 'batch_size', None) or 1
    shape = _shape(batch)
    sampler: Any = loader.sampler
    count = len(sampler) if isinstance(sampler, Sized) else 0  # for a stream, there is no last batch
    if size == 1 or count % size != 1 or getattr(batches, 'drop_last', False) or shape is None:
        return
    model = model.module if is_model_wrapper(model) else model
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    if isinstance(getattr(preprocessor, 'batch_augments', None), nn.ModuleList) or any(
            compiled_call(module) or isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        return  # another size, or not checkable on shapes: training on the batch will tell
    divisor = getattr(preprocessor, 'pad_size_divisor', 1)
    channels, height, width = shape
    parameter = next(model.parameters(), None)
    if parameter is None:
        return
    try:
        with fake_copy(model) as copied:
            features: Any = copied.extract_feat
            features(torch.empty(1, channels, -(-height // divisor) * divisor, -(-width // divisor) * divisor,
                                 device=parameter.device))
    except Exception as error:  # any other error will appear in the training
        if _REFUSAL in str(error):
            raise UserError(f'the last batch of an epoch holds one image ({count} images in batches of {size}), so a '
                            f'batch norm would get one value per channel for an image of {height} x {width} pixels. '
                            f'{_REMEDY}') from None


@contextmanager
def named_norm_errors(batch: Any, iteration: int) -> Iterator[None]:
    """Within it, a batch norm that gets one value per channel raises an error that names the map.

    Raises:
        UserError: If a batch norm gets one value per channel.
    """
    try:
        yield
    except Exception as error:  # compiled code wraps the error in its own
        text = str(error)
        if _REFUSAL not in text:
            raise
        got = text.partition('torch.Size(')[2].partition(']')[0] + ']'
        count = len(batch['inputs']) if isinstance(batch, dict) and 'inputs' in batch else None
        images = f', from {count} image{"s" * (count != 1)}' if count else ''
        raise UserError(f'iteration {iteration}: a batch norm got one value per channel (a map of {got}{images}), '
                        f'which has no variance. {_REMEDY}') from error


def _shape(batch: Any) -> Optional[Tuple[int, int, int]]:
    """Channels, height and width of the images of a batch, if all are the same."""
    inputs = batch.get('inputs') if isinstance(batch, dict) else None
    shapes = {tuple(x.shape) for x in inputs} if isinstance(inputs, (list, tuple, torch.Tensor)) and all(
        isinstance(x, torch.Tensor) for x in inputs) else set()
    return shapes.pop() if len(shapes) == 1 and len(min(shapes)) == 3 else None
