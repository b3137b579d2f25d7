"""Batches that a batch norm can't train on: one image whose map is one pixel, as the last batch of an epoch may be."""

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
    """Try whether a model trains on the last batch of an epoch, if that holds one image, on shapes alone.

    Args:
        loader: The data loader of the training.
        model: The model, which stays as it is.
        batch: A batch of its. Only where all of its images have one shape is that of the last one known.

    Raises:
        UserError: If a batch norm of backbone or neck would get one value per channel.
    """
    batches = loader.batch_sampler
    size = getattr(batches, 'batch_size', None) or 1
    shape = _shape(batch)
    sampler: Any = loader.sampler
    count = len(sampler) if isinstance(sampler, Sized) else 0  # of a stream, there is no last one
    if size == 1 or count % size != 1 or getattr(batches, 'drop_last', False) or shape is None:
        return
    model = model.module if is_model_wrapper(model) else model
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    if isinstance(getattr(preprocessor, 'batch_augments', None), nn.ModuleList) or any(
            compiled_call(module) or isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        return  # another size, or what can't be tried so: the batch itself will tell
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
    except Exception as error:  # whatever else it is, the training will say it
        if _REFUSAL in str(error):
            raise UserError(f'the last batch of an epoch holds one image, since {count} images are trained on in '
                            f'batches of {size}, and a batch norm would get one value per channel of an image of '
                            f'{height} x {width} pixels. {_REMEDY}') from None


@contextmanager
def named_norm_errors(batch: Any, iteration: int) -> Iterator[None]:
    """Within it, that a batch norm got one value per channel is an error that says of what.

    Raises:
        UserError: If one did.
    """
    try:
        yield
    except Exception as error:  # compiled code has errors of its own around it
        text = str(error)
        if _REFUSAL not in text:
            raise
        got = text.partition('torch.Size(')[2].partition(']')[0] + ']'
        count = len(batch['inputs']) if isinstance(batch, dict) and 'inputs' in batch else None
        images = f', from {count} image{"s" * (count != 1)}' if count else ''
        raise UserError(f'iteration {iteration}: a batch norm got one value per channel (a map of {got}{images}), and '
                        f'has no variance to train with. {_REMEDY}') from error


def _shape(batch: Any) -> Optional[Tuple[int, int, int]]:
    """Channels, height and width of all images of a batch, if these are alike."""
    inputs = batch.get('inputs') if isinstance(batch, dict) else None
    shapes = {tuple(x.shape) for x in inputs} if isinstance(inputs, (list, tuple, torch.Tensor)) and all(
        isinstance(x, torch.Tensor) for x in inputs) else set()
    return shapes.pop() if len(shapes) == 1 and len(min(shapes)) == 3 else None
