"""Writes files and folders atomically, with one-line errors if that fails."""

import errno
import io
import os
import re
import shutil
import stat
import tempfile
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, Optional, Union

from mmfasternet.errors import DataError, UserError

#: Numbers of errors that only writing has.
WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
#: Numbers of those that a place has, be it read or written.
OF_PLACES = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
                       errno.EIO, errno.ESTALE, errno.ENOTEMPTY})
_ADVICE = {errno.ENOSPC: 'Make room', errno.EDQUOT: 'Make room', errno.EFBIG: 'Allow larger files (ulimit -f)',
           errno.ENAMETOOLONG: 'Give it a shorter name'}
_UNFINISHED = re.compile(r'\..+\.(\d+)\.unfinished')


@contextmanager
def atomic_path(path: Union[str, Path]) -> Iterator[Path]:
    """Yield a temporary file next to ``path``, which is renamed to ``path`` once it is complete and on disk.

    If writing is interrupted, by a full disk or by SIGKILL, an existing file
    at ``path`` is not changed.
    """
    path = Path(path)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}.unfinished')
    try:
        yield unfinished
        with unfinished.open('rb') as file:
            os.fsync(file.fileno())  # else a power cut may leave an empty file under the name
        os.replace(unfinished, path)
    except OSError as error:
        if error.errno in WRITING | OF_PLACES and error.filename in (None, str(unfinished)):
            error.filename = str(path)  # the requested name
        raise
    finally:
        with suppress(OSError):
            unfinished.unlink()


@contextmanager
def atomic_folder(path: Union[str, Path]) -> Iterator[Path]:
    """Yield a temporary folder next to ``path``, which is renamed to ``path`` once it is complete.

    If writing is interrupted, nothing is at ``path``; what SIGKILL leaves next
    to it is removed by the next writer.

    Raises:
        DataError: If ``path`` already exists.
        UserError: If it can't be written.
    """
    path = Path(path)
    check_folder(path)
    if os.path.lexists(path):
        raise DataError(f"'{path}' already exists: remove it, or choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path.parent)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}.unfinished')
    try:
        unfinished.mkdir()
        yield unfinished
        unfinished.rename(path)
    except OSError as error:
        if error.errno in WRITING | OF_PLACES and str(error.filename or '').startswith(str(unfinished)):
            error.filename = str(error.filename).replace(str(unfinished), str(path), 1)  # the requested name
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_atomically(path: Union[str, Path], content: bytes) -> Path:
    """Write bytes to ``path`` atomically; returns the path."""
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(content)
    return Path(path)


def check_folder(folder: Union[str, Path]) -> None:
    """Check that a folder, which may not exist yet, can be written to; nothing is left there.

    Raises:
        UserError: If not: results would be lost.
    """
    try:
        _try_folder(Path(folder))
    except OSError as error:
        raise UserError(cannot_write(folder, error)) from None


def check_file(path: Union[str, Path]) -> None:
    """Check that a file, which may exist, can be written; nothing is changed.

    Raises:
        UserError: If not: results would be lost.
    """
    path = Path(path)
    try:
        _try_folder(path.parent)
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(path.stat().st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UserError(cannot_write(path, error)) from None


def _try_folder(folder: Path) -> None:
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    for part in folder.absolute().relative_to(there.absolute()).parts:
        with suppress(FileNotFoundError):
            (there / part).lstat()  # fails if the name is too long
    with tempfile.TemporaryFile(dir=there) as file:
        file.write(b'0')


def cannot_write(path: Union[str, Path], error: OSError, mend: str = 'Choose another place') -> str:
    """One line that says that a file or folder can't be written, why, and what to do.

    Args:
        path: The file or folder.
        error: The system's error.
        mend: What to do if only another place or other permissions help.
    """
    return f"'{path}' can't be written: {reason_of(error, path)}. {_ADVICE.get(error.errno or 0, mend)}"


def reason_of(error: OSError, path: Union[str, Path]) -> str:
    """The system's message for a path; if a file is in the way, which one."""
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        for each in (Path(path), *Path(path).parents):
            if os.path.lexists(each) and not each.is_dir():
                return f"'{each}' is not a folder"
    return error.strerror or str(error)


def place_of(error: OSError) -> Optional[str]:
    """The path that an error is about: its own, or that of the file open where it was raised."""
    if error.filename is not None:
        return os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else None
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in frame.f_locals.values():
            if isinstance(value, io.IOBase) and isinstance(getattr(value, 'name', None), str):
                return value.name  # type: ignore[attr-defined]
    return None


def remove_unfinished(folder: Union[str, Path]) -> None:
    """Remove unfinished files and folders that killed processes left in a folder."""
    for path in Path(folder).glob('.*.unfinished'):
        match = _UNFINISHED.fullmatch(path.name)
        if match and not _is_running(int(match[1])):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
