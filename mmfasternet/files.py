"""Files and folders that are written atomically, complete or not at all; and in a line why one can't be."""

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
                       errno.EIO, errno.ESTALE})
_ADVICE = {errno.ENOSPC: 'Make room', errno.EDQUOT: 'Make room', errno.EFBIG: 'Allow larger files (ulimit -f)',
           errno.ENAMETOOLONG: 'Give it a shorter name'}
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
    except OSError as error:
        if error.errno in WRITING | OF_PLACES and error.filename in (None, str(unfinished)):
            error.filename = str(path)  # the name that was asked for
        raise
    finally:
        with suppress(OSError):
            unfinished.unlink()


@contextmanager
def atomic_folder(path: Union[str, Path]) -> Iterator[Path]:
    """Give a folder beside ``path`` to write into, which takes its name once it is complete.

    Whoever is stopped in between leaves nothing at ``path``; what SIGKILL
    leaves beside it is removed by the next one.

    Raises:
        DataError: If there is something at ``path`` already.
        UserError: If it can't be written.
    """
    path = Path(path)
    check_folder(path)
    if path.exists():
        raise DataError(f"'{path}' exists already: remove it, or name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path.parent)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}.unfinished')
    try:
        unfinished.mkdir()
        yield unfinished
        unfinished.rename(path)
    except OSError as error:
        if error.errno in WRITING | OF_PLACES and str(error.filename or '').startswith(str(unfinished)):
            error.filename = str(error.filename).replace(str(unfinished), str(path), 1)  # the name that was asked for
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_atomically(path: Union[str, Path], content: bytes) -> Path:
    """Write bytes to ``path`` atomically; gives the path."""
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(content)
    return Path(path)


def check_folder(folder: Union[str, Path]) -> None:
    """Check that a folder, which may be still to be made, can be written to; nothing is left there.

    Raises:
        UserError: If not: then work for it would be lost.
    """
    try:
        _try_folder(Path(folder))
    except OSError as error:
        raise UserError(cannot_write(folder, error)) from None


def check_file(path: Union[str, Path]) -> None:
    """Check that a file, which may be there, can be written; nothing is changed.

    Raises:
        UserError: If not: then work for it would be lost.
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
            (there / part).lstat()  # its name may be too long
    with tempfile.TemporaryFile(dir=there) as file:
        file.write(b'0')


def cannot_write(path: Union[str, Path], error: OSError, mend: str = 'Name another place') -> str:
    """A line that says that a file or folder can't be written, why, and what to do.

    Args:
        path: The file or folder.
        error: What the system says.
        mend: What to do where nothing helps but another place, or other rights.
    """
    return f"'{path}' can't be written: {reason_of(error, path)}. {_ADVICE.get(error.errno or 0, mend)}"


def reason_of(error: OSError, path: Union[str, Path]) -> str:
    """What the system says of a place, in words; where a file is in the way, which."""
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        for each in (Path(path), *Path(path).parents):
            if os.path.lexists(each) and not each.is_dir():
                return f"'{each}' is no folder"
    return error.strerror or str(error)


def place_of(error: OSError) -> Optional[str]:
    """The path that an error is about: its own, or that of the file that was open where it came from."""
    if error.filename is not None:
        return os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else None
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in frame.f_locals.values():
            if isinstance(value, io.IOBase) and isinstance(getattr(value, 'name', None), str):
                return value.name  # type: ignore[attr-defined]
    return None


def remove_unfinished(folder: Union[str, Path]) -> None:
    """Remove the files and folders that processes that are gone, and were killed while they wrote, left in a folder."""
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
        pass  # somebody else's
    return True
