import errno
import os
import stat
import subprocess
import sys

import pytest

from mmfasternet.errors import UserError
from mmfasternet.files import (
    atomic_folder,
    atomic_path,
    check_file,
    check_folder,
    remove_unfinished,
    write_atomically,
)


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


def test_a_folder_takes_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / 'new' / 'folder'
    with atomic_folder(path) as unfinished:
        (unfinished / 'file').touch()
        assert not path.exists() and unfinished.parent == path.parent
    assert os.listdir(path) == ['file'] and os.listdir(path.parent) == ['folder']
    with pytest.raises(UserError, match='already exists'), atomic_folder(path):
        raise AssertionError('never reached')
    assert os.listdir(path) == ['file']
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error), atomic_folder(tmp_path / 'other') as unfinished:
            (unfinished / 'file').touch()
            raise error
    assert os.listdir(tmp_path) == ['new']
    with pytest.raises(OSError, match='No space') as stop, atomic_folder(tmp_path / 'other') as unfinished:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(unfinished / 'file'))
    assert stop.value.filename == str(tmp_path / 'other' / 'file')


def test_what_killed_processes_left_is_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, '-c', ''])
    gone.wait()
    (tmp_path / f'.shapes.{gone.pid}.unfinished' / 'train').mkdir(parents=True)
    for process in (gone.pid, os.getpid()):
        (tmp_path / f'.epoch_1.pth.{process}.unfinished').touch()
    (tmp_path / '.other.unfinished').touch()
    remove_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [f'.epoch_1.pth.{os.getpid()}.unfinished', '.other.unfinished']


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').touch()
    for path in (tmp_path / 'folder', tmp_path / 'file' / 'a', tmp_path / ('x' * 250)):
        with pytest.raises(OSError) as error:
            write_atomically(path, b'content')
        assert str(path) in (error.value.filename, error.value.filename2)
    with pytest.raises(OSError) as error, atomic_path(tmp_path / 'new'):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.filename == str(tmp_path / 'new')
    with pytest.raises(OSError, match='^the connection ended$'), atomic_path(tmp_path / 'new'):
        raise OSError('the connection ended')


@pytest.mark.parametrize('name', ['.', 'new', 'new/a/b', 'shapes (1)/[a]'])
def test_places_that_can_be_written_are_left_as_they_are(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for root in ('.', tmp_path):
        check_folder(os.path.join(root, name))
        check_file(os.path.join(root, name, 'file'))
    assert not os.listdir(tmp_path)
    (tmp_path / 'there').write_text('content')
    check_file(tmp_path / 'there')
    assert (tmp_path / 'there').read_text() == 'content' and os.listdir(tmp_path) == ['there']


@pytest.mark.parametrize('name, reason', [('file', "'{}/file' is not a folder. Choose another place"),
                                          ('file/a/b', "'{}/file' is not a folder. Choose another place"),
                                          ('new/' + 'x' * 300, 'File name too long. Give it a shorter name'),
                                          ('x' * 300 + '/new', 'File name too long. Give it a shorter name')])
def test_places_that_cannot_be_written_are_named(tmp_path, name, reason):
    (tmp_path / 'file').touch()
    path = tmp_path / name
    for check, place in ((check_folder, path), (check_file, path / 'a')):
        with pytest.raises(UserError) as error:
            check(place)
        assert str(error.value) == f"'{place}' can't be written: {reason.format(tmp_path)}"
    assert os.listdir(tmp_path) == ['file']


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match=f"^'{tmp_path}' can't be written: Is a directory. Choose another place$"):
        check_file(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_missing_permissions_are_named(tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').touch()
    for path, check, place in ((tmp_path / 'folder', check_folder, tmp_path / 'folder' / 'a'),
                               (tmp_path / 'folder', check_file, tmp_path / 'folder' / 'a'),
                               (tmp_path / 'file', check_file, tmp_path / 'file')):
        path.chmod(stat.S_IRUSR | stat.S_IXUSR)
        with pytest.raises(UserError, match=f"^'{place}' can't be written: Permission denied"):
            check(place)
        path.chmod(stat.S_IRWXU)
