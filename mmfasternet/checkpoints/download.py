"""Local copies of files given by a URL, a name on the Hub or one of MMEngine's schemes."""

import hashlib
import os
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlparse

import torch
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmfasternet.checkpoints.hub import fetch_from_hub, is_hub_name
from mmfasternet.compat import mmengine_home
from mmfasternet.errors import CheckpointError
from mmfasternet.files import OF_PLACES, WRITING, atomic_path, cannot_write
from mmfasternet.installed import require

_SECONDS = 60  # without an answer


def is_local(path: str) -> bool:
    """Whether it is the path of a local file, not a URL or a name elsewhere."""
    return '://' not in path and not is_hub_name(path)


def local_path(path: str) -> Path:
    """The local file of a path or URL; downloaded first if necessary.

    Args:
        path: A path; a URL with ``http://``, ``https://`` or ``file://``; a
            name on the Hub, as
            :func:`~mmfasternet.checkpoints.hub.fetch_from_hub` takes it; a
            name with ``torchvision://``, ``open-mmlab://`` or ``mmcls://``,
            for which MMEngine knows the URL.

    Raises:
        CheckpointError: If the name is unknown, or it can't be downloaded.
    """
    if is_hub_name(path):
        return fetch_from_hub(path)
    if is_local(path):
        return Path(path).expanduser()
    scheme, name = path.split('://', 1)
    scheme = scheme.lower()
    if scheme in ('http', 'https'):
        return download(path)
    if scheme == 'file':
        return Path(unquote(urlparse(path).path))
    registries = dict.fromkeys(('torchvision', 'modelzoo'), mmengine_checkpoint.get_torchvision_models)
    registries.update(dict.fromkeys(('open-mmlab', 'openmmlab'), mmengine_checkpoint.get_external_models))
    registries['mmcls'] = mmengine_checkpoint.get_mmcls_models
    if scheme not in registries:
        raise CheckpointError(f"checkpoint '{path}': {scheme}:// is not supported. Download it and give the path of "
                              'the file')
    known = registries[scheme]()
    if name not in known:
        raise CheckpointError(f"checkpoint '{path}': MMEngine does not know '{name}'. Check the name, or give a file")
    if '://' in known[name]:
        return download(known[name])
    return Path(mmengine_home()) / known[name]


def download(url: str) -> Path:
    """The local copy of a file, downloaded if missing: once, however many processes request it.

    Args:
        url: Its URL, http or https.

    Returns:
        Path of the file in ``torch.hub``'s folder for checkpoints
        (``TORCH_HOME`` moves it). If two URLs have the same file name, the second gets its own folder.

    Raises:
        CheckpointError: If it can't be downloaded completely; the message names the file, its URL and the folder to put
            it in.
    """
    root = Path(torch.hub.get_dir()) / 'checkpoints'
    try:
        name = os.path.basename(urlparse(url).path)  # not unquoted, which could make slashes
    except ValueError:
        name = ''
    if name in ('', '.', '..'):
        raise CheckpointError(f"checkpoint '{url}': the URL does not name a file")
    path = _place(root, name, url)
    if path.is_file():
        return path
    try:
        root.mkdir(parents=True, exist_ok=True)
        with require('filelock').FileLock(root / f'.{name}.lock'):
            path = _place(root, name, url)  # another URL may have come first
            if not path.is_file():
                path.parent.mkdir(exist_ok=True)
                _fetch(url, path)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, OSError) and error.errno in WRITING | OF_PLACES:
            raise CheckpointError(f"checkpoint '{url}': "
                                  + cannot_write(path.parent, error, 'Set TORCH_HOME to another folder')) from None
        raise CheckpointError(f'{name} could not be downloaded from {url} ({getattr(error, "reason", error)}). '
                              f'Download it elsewhere and put it into {path.parent}/, or give another file (in a '
                              'config model.backbone.init_cfg.checkpoint=PATH, or model.backbone.init_cfg=None to '
                              'train from scratch)') from None
    return path


def _place(root: Path, name: str, url: str) -> Path:
    """Where the file of a URL is stored; a file without a recorded URL was put there by hand."""
    address = _address_of(root / name)
    if address.is_file() and address.read_text() != url:
        return root / hashlib.sha256(url.encode()).hexdigest()[:8] / name
    return root / name


def _address_of(path: Path) -> Path:
    return path.with_name(f'.{path.name}.url')


def _fetch(url: str, path: Path) -> None:
    with atomic_path(path) as unfinished:
        with urllib.request.urlopen(url, timeout=_SECONDS) as response, unfinished.open('wb') as file:
            length = int(response.headers.get('Content-Length') or 0)
            bar = require('tqdm').tqdm(desc=path.name, total=length or None, unit='B', unit_scale=True, disable=None)
            with bar as progress:
                while chunk := response.read(1 << 20):
                    file.write(chunk)
                    progress.update(len(chunk))
                received = file.tell()
        if length and received != length:
            raise OSError(f'the connection ended after {received} of {length} bytes')
        _address_of(path).write_text(url)  # before the file gets its name: without its URL it would match any URL
