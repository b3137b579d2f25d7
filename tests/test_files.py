import errno
import os
import subprocess
import sys

import pytest

from mmfasternet.files import atomic_path, remove_unfinished, write_atomically


def test_a_file_takes_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / 'file'
    path.write_text('before')
    with atomic_path(path) as unfinished:
        unfinished.write_text('after')
        assert path.read_text() == 'before' and unfinished.parent == tmp_path
    assert path.read_text() == 'after' and os.listdir(tmp_path) == ['file']


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / 'file'
    write_atomically(path, b'before')
    with pytest.raises(OSError, match='No space'), atomic_path(path) as unfinished:
        unfinished.write_text('aft')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_bytes() == b'before' and os.listdir(tmp_path) == ['file']


def test_what_killed_processes_left_is_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, '-c', ''])
    gone.wait()
    for process in (gone.pid, os.getpid()):
        (tmp_path / f'.epoch_1.pth.{process}.unfinished').touch()
    (tmp_path / '.other.unfinished').touch()
    remove_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [f'.epoch_1.pth.{os.getpid()}.unfinished', '.other.unfinished']
