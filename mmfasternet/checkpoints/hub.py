"""Files of repositories on the Hugging Face Hub, through ``huggingface_hub``: its cache, tokens and variables."""

import re
from pathlib import Path
from typing import Any, List, Optional
from urllib.parse import unquote

from mmengine.logging import print_log

from mmfasternet.errors import CheckpointError, UserError
from mmfasternet.files import OF_PLACES, WRITING, place_of, reason_of
from mmfasternet.installed import require
from mmfasternet.names import HUB_PREFIXES

#: A repository's weights where no file of it is named, the first that is there: as timm and transformers call them.
WEIGHTS = ('model.safetensors', 'pytorch_model.bin')

_TIMMS = re.compile(r'hf-hub:(?P<repo>[^@]+)(?:@(?P<revision>.+))?')
# Revisions with a slash are quoted, but for those of pull requests and conversions.
_FSSPECS = re.compile(r'hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?/(?P<file>.+)')


def is_hub_name(path: str) -> bool:
    """Whether it is timm's name of a repository, ``hf-hub:``, or Hugging Face's name of a file, ``hf://``."""
    return path.startswith(HUB_PREFIXES)


def fetch_from_hub(path: str) -> Path:
    """The local copy of a file on the Hub, downloaded unless it is in the cache of ``huggingface_hub``.

    A branch or a tag stays at the commit it pointed to when it was downloaded;
    that commit is logged.

    Args:
        path: ``hf-hub:ORG/REPO`` for the first of :data:`WEIGHTS` that the
            repository has, or ``hf://ORG/REPO/FILE``. ``@REVISION`` after the
            repository selects a branch, a tag or a commit.

    Raises:
        CheckpointError: If there is no such file, or it can't be downloaded.
        UserError: If ``huggingface_hub`` is not installed.
    """
    match = _TIMMS.fullmatch(path) or _FSSPECS.fullmatch(path)
    if not match or path.startswith(('hf://datasets/', 'hf://spaces/', 'hf://buckets/')):
        raise CheckpointError(f"checkpoint '{path}' does not name a model file on the Hub. Write hf-hub:ORG/REPO, or "
                              'hf://ORG/REPO/FILE, with @REVISION after the repository for a certain revision')
    named = match.groupdict()
    revision = named['revision'] and unquote(named['revision'])
    files = [unquote(named['file'])] if named.get('file') else list(WEIGHTS)
    file = _first_of(path, named['repo'], files, revision)
    folders = file.parts
    if 'snapshots' in folders[:-2]:
        commit = folders[folders.index('snapshots') + 1]
        print_log(f'{path} is {file.name} of commit {commit}', logger='current')
    return file


def _first_of(path: str, repo: str, files: List[str], revision: Optional[str]) -> Path:
    hub = require('huggingface_hub')
    try:
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError:
        raise UserError(f"huggingface_hub {hub.__version__} is too old for '{path}': pip install "
                        '"huggingface_hub>=0.26" installs a newer one') from None
    problem: Optional[Exception] = None
    for name in files:
        try:
            # hf_hub_download() requests a branch's newest commit each time.
            cached = hub.try_to_load_from_cache(repo, name, revision=revision)
            if cached is None:
                cached = hub.hf_hub_download(repo, name, revision=revision)
            if isinstance(cached, str):
                return Path(cached)  # else it is known that the repository has none
        except EntryNotFoundError as error:  # without a network, too: another file may be in the cache
            problem = problem or error
        except Exception as error:  # also those of its HTTP client, which is another in each of its major releases
            problem = error
            break
    raise CheckpointError(f"checkpoint '{path}' " + _says(hub, problem, repo, files, revision)) from None


def _says(hub: Any, problem: Optional[Exception], repo: str, files: List[str], revision: Optional[str]) -> str:
    """What went wrong and what to do, as a text that follows the checkpoint's name."""
    errors, endpoint = hub.errors, hub.constants.ENDPOINT
    page, what = f'{endpoint}/{repo}', ' or '.join(files)
    log_in = 'log in with `hf auth login`, or set HF_TOKEN'
    if isinstance(problem, errors.LocalEntryNotFoundError):
        if hub.constants.HF_HUB_OFFLINE:
            return (f'is not in the cache {hub.constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE prevents downloading {what} '
                    f'of {repo}. Download it once without that variable, or give a file')
        problem = problem.__cause__ if isinstance(problem.__cause__, Exception) else problem
    if isinstance(problem, errors.GatedRepoError):
        return f"can't be downloaded: {repo} is gated. Request access on {page}; then {log_in}"
    if isinstance(problem, errors.RepositoryNotFoundError):
        return f'does not exist: {endpoint} has no {repo}, or it is private. Check the name; if private, {log_in}'
    if isinstance(problem, errors.RevisionNotFoundError):
        return f"does not exist: {repo} has no revision '{revision}'. Its revisions are on {page}/tree/main"
    if problem is None or isinstance(problem, errors.EntryNotFoundError) and not isinstance(problem, FileNotFoundError):
        return (f'does not exist: {repo} has no {what}. Its files are on {page}/tree/{revision or "main"}; '
                f'hf://{repo}/FILE names one')
    if isinstance(problem, errors.HFValidationError):
        return f'does not name a repository on the Hub: {_reason(problem)}. Write hf-hub:ORG/REPO'
    if isinstance(problem, OSError) and problem.errno in WRITING | OF_PLACES:
        place = place_of(problem) or hub.constants.HF_HUB_CACHE
        return (f"can't be downloaded: '{place}' can't be read or written: {reason_of(problem, place)}. Set HF_HOME to "
                'another folder')
    status = getattr(getattr(problem, 'response', None), 'status_code', None)
    if status in (401, 403):
        return f"can't be downloaded: {endpoint} refuses {what} of {repo} ({status}). A token is needed: {log_in}"
    return (f"can't be downloaded: {what} of {repo} from {endpoint} ({_reason(problem)}). Download it elsewhere and "
            'give the path of the file')


def _reason(problem: Exception) -> str:
    return next(iter(str(problem).splitlines()), '').rstrip('.') or type(problem).__name__
