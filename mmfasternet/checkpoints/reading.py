"""Reading of checkpoint files, safely and with one-line errors."""

import pickle
import re
from pathlib import Path
from typing import Any, Dict
from urllib.error import URLError

import torch
from mmengine.runner import CheckpointLoader
from torch import nn

from mmfasternet.checkpoints.safe_loading import enforce_safe_loading
from mmfasternet.errors import CheckpointError

# How PyTorch names what it refuses, and how our own stand-in for getattr does.
_REFUSED = re.compile(r'(?:GLOBAL|attribute) (\S+)')


def _load(path: str, map_location: str) -> Any:
    return torch.load(Path(path).expanduser(), map_location=map_location, weights_only=True)


def read_checkpoint(path: str) -> Dict[str, Any]:
    """Read a checkpoint from a file or URL; nothing in it is run.

    Args:
        path: Path or URL, as MMEngine takes them.

    Returns:
        Its content, on the CPU.

    Raises:
        CheckpointError: If it can't be had, is broken, or holds anything but
            plain data; the message names the file.
    """
    if '://' not in path and not Path(path).expanduser().is_file():
        raise CheckpointError(f"checkpoint '{path}' does not exist. Check the path; training writes its "
                              f'checkpoints to the work folder, work_dirs/CONFIG by default')
    enforce_safe_loading()
    try:
        # MMEngine's own reading of local files would try again unsafely, and print both refusals.
        content = (CheckpointLoader.load_checkpoint if '://' in path else _load)(path, map_location='cpu')
    except pickle.UnpicklingError as error:
        named = _REFUSED.search(str(error))
        problem = f'asks for {named[1]}, more than plain data, and was not loaded' if named else 'is no checkpoint'
        raise CheckpointError(f"checkpoint '{path}' {problem}. Use a file from a source that you trust") from None
    except (URLError, ConnectionError, TimeoutError) as error:
        name, folder = path.rsplit('/', 1)[-1], f'{torch.hub.get_dir()}/checkpoints'
        raise CheckpointError(f'{name} could not be downloaded from {path} ({getattr(error, "reason", error)}). '
                              f'Fetch it elsewhere and put it into {folder}/, or name another file (for the backbone: '
                              f'--cfg-options model.backbone.init_cfg.checkpoint=PATH, or '
                              f'model.backbone.init_cfg=None to train from scratch)') from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        reason = (str(error).strip() or 'the file ends too early').splitlines()[0]
        raise CheckpointError(f"checkpoint '{path}' is broken: {reason}. Fetch or write it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"checkpoint '{path}' holds a {type(content).__name__}, no state dict")
    return content


def state_dict_of(content: Dict[str, Any]) -> Dict[str, Any]:
    """The weights in a checkpoint's content, bare or under ``state_dict`` or ``model``."""
    for key in ('state_dict', 'model'):
        if isinstance(content.get(key), dict):
            return content[key]
    return content


def check_fits(model: nn.Module, path: str) -> None:
    """Check that a checkpoint holds all of a model's weights in their shapes, where MMEngine looks for them.

    Args:
        model: The model.
        path: Path or URL of the checkpoint.

    Raises:
        CheckpointError: If not; the message names the file and the keys.
    """
    content = read_checkpoint(path)
    weights = {key.removeprefix('module.'): value for key, value in content.get('state_dict', content).items()}
    own = model.state_dict()
    raise_unless_fitting(
        path,
        lacks=[key for key in own if key not in weights],
        has_other_shapes_for=[key for key in own if key in weights and own[key].shape != weights[key].shape])


def raise_unless_fitting(path: str, **problems: Any) -> None:
    """Raise a :class:`CheckpointError` for the first of the problems, given as lists of keys, that has any."""
    for problem, keys in problems.items():
        if keys:
            raise CheckpointError(f"checkpoint '{path}' does not fit this model: it {problem.replace('_', ' ')} "
                                  f"{', '.join(keys[:3])} ({len(keys)} keys in all). Check that it belongs to this "
                                  f'config: arch and number of classes')
