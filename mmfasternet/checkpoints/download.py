"""Files from the internet, kept where PyTorch keeps them."""

import os
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch
from filelock import FileLock

from mmfasternet.errors import CheckpointError


def download(url: str) -> Path:
    """The local copy of a file, fetched unless it is there: once, however many processes ask for it.

    Args:
        url: Its address, http or https.

    Returns:
        Path of the file in ``torch.hub``'s folder for checkpoints
        (``TORCH_HOME`` moves it).

    Raises:
        CheckpointError: If it can't be fetched; the message names the file,
            its address and the place to put it.
    """
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    name = os.path.basename(urlparse(url).path)
    path = folder / name
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f'.{name}.lock'):
            if not path.is_file():
                torch.hub.download_url_to_file(url, str(path), progress=os.isatty(2))
    except (OSError, HTTPException) as error:  # a full disk and a folder of somebody else's, too
        raise CheckpointError(f'{name} could not be downloaded from {url} ({getattr(error, "reason", error)}). '
                              f'Fetch it elsewhere and put it into {folder}/, or name another file (for the backbone: '
                              f'--cfg-options model.backbone.init_cfg.checkpoint=PATH, or '
                              f'model.backbone.init_cfg=None to train from scratch)') from None
    return path
