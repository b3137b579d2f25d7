"""Files that are written atomically: complete, or not at all."""

import os
import re
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, Union

_UNFINISHED = re.compile(r'\..+\.(\d+)\.unfinished')


@contextmanager
def atomic_path(path: Union[str, Path]) -> Iterator[Path]:
    """Give a file beside ``path`` to write to, which takes its name once it is complete and on the disk.

    Whoever is stopped in between, by a full disk or by SIGKILL, leaves what
    was at ``path`` as it was.
    """
    path = Path(path)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}.unfinished')
    try:
        yield unfinished
        with unfinished.open('rb') as file:
            os.fsync(file.fileno())  # else a power cut may leave the name with nothing behind it
        os.replace(unfinished, path)
    finally:
        with suppress(OSError):
            unfinished.unlink()


def write_atomically(path: Union[str, Path], content: bytes) -> Path:
    """Write bytes to ``path`` atomically; gives the path."""
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(content)
    return Path(path)


def remove_unfinished(folder: Union[str, Path]) -> None:
    """Remove what processes that are gone, and were killed while they wrote, left in a folder."""
    for path in Path(folder).glob('.*.unfinished'):
        match = _UNFINISHED.fullmatch(path.name)
        if match and not _is_running(int(match[1])):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True
