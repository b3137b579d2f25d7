"""Local copies of files that are named by a URL, by a name on the Hub or by one of MMEngine's schemes."""

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
    """Whether it is the path of a file, and no address or name of one elsewhere."""
    return '://' not in path and not is_hub_name(path)


def local_path(path: str) -> Path:
    """The file of a path or URL on this machine; it is fetched first where it must.

    Args:
        path: A path; an address by ``http://``, ``https://`` or ``file://``;
            a name on the Hub, as
            :func:`~mmfasternet.checkpoints.hub.fetch_from_hub` takes it; a
            name by ``torchvision://``, ``open-mmlab://`` or ``mmcls://``, for
            which MMEngine knows the address.

    Raises:
        CheckpointError: If it names nothing, or can't be fetched.
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
        raise CheckpointError(f"checkpoint '{path}': {scheme}:// is not read here. Fetch it and name the file")
    known = registries[scheme]()
    if name not in known:
        raise CheckpointError(f"checkpoint '{path}': MMEngine knows no '{name}'. Check the name, or name a file")
    if '://' in known[name]:
        return download(known[name])
    return Path(mmengine_home()) / known[name]


def download(url: str) -> Path:
    """The local copy of a file, fetched unless it is there: once, however many processes ask for it.

    Args:
        url: Its address, http or https.

    Returns:
        Path of the file in ``torch.hub``'s folder for checkpoints
        (``TORCH_HOME`` moves it). Of two addresses with the same file name,
        the second gets a folder of its own.

    Raises:
        CheckpointError: If it can't be fetched to its end; the message names the
            file, its address and the place to put it.
    """
    root = Path(torch.hub.get_dir()) / 'checkpoints'
    try:
        name = os.path.basename(urlparse(url).path)  # not unquoted, which could make slashes
    except ValueError:
        name = ''
    if name in ('', '.', '..'):
        raise CheckpointError(f"checkpoint '{url}' names no file")
    path = _place(root, name, url)
    if path.is_file():
        return path
    try:
        root.mkdir(parents=True, exist_ok=True)
        with require('filelock').FileLock(root / f'.{name}.lock'):
            path = _place(root, name, url)  # another address may have come first
            if not path.is_file():
                path.parent.mkdir(exist_ok=True)
                _fetch(url, path)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, OSError) and error.errno in WRITING | OF_PLACES:
            raise CheckpointError(f"checkpoint '{url}': "
                                  + cannot_write(path.parent, error, 'Name another place by TORCH_HOME')) from None
        raise CheckpointError(f'{name} could not be downloaded from {url} ({getattr(error, "reason", error)}). '
                              f'Fetch it elsewhere and put it into {path.parent}/, or name another file (in a config '
                              f'model.backbone.init_cfg.checkpoint=PATH, or model.backbone.init_cfg=None to train from '
                              f'scratch)') from None
    return path


def _place(root: Path, name: str, url: str) -> Path:
    """Where the file of an address is kept; a file without the address that it is from was put there by hand."""
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
        _address_of(path).write_text(url)  # before the file has its name: it would be anybody's
