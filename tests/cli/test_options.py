import argparse
import errno
import os
import warnings
from contextlib import nullcontext

import mmengine
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mmfasternet.cli.options import (
    add_benchmark_options,
    add_graphs_option,
    integer,
    one_line_errors,
    set_up_device,
)
from mmfasternet.errors import DataError, UserError


class Broken(Dataset):

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise DataError("image 'a.jpg' is broken")


@pytest.mark.parametrize('workers', [0, 1])
def test_an_error_is_one_line_also_from_a_worker(capsys, workers):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        next(iter(DataLoader(Broken(), num_workers=workers)))
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: image 'a.jpg' is broken\n"


@pytest.mark.parametrize('error', [None, ZeroDivisionError])
def test_only_within_are_warnings_of_an_evaluator_not_shown(error):
    before = list(warnings.filters)
    with pytest.raises(error) if error else nullcontext(), one_line_errors():
        with warnings.catch_warnings(record=True) as said:
            warnings.warn('faster_coco_eval is not installed', UserWarning, stacklevel=1)
            warnings.warn('something else', RuntimeWarning, stacklevel=1)
        assert [str(each.message) for each in said] == ['something else']
        if error:
            raise error
    assert warnings.filters == before


@pytest.mark.parametrize('text, least', [('0', 1), ('-1', 0), ('1.5', 1), ('many', 1)])
def test_a_count_out_of_its_range_is_named(capsys, text, least):
    parser = argparse.ArgumentParser()
    parser.add_argument('--runs', type=integer(least))
    with pytest.raises(SystemExit):
        parser.parse_args([f'--runs={text}'])
    assert capsys.readouterr().err.endswith(
        f'error: argument --runs: must be an integer of at least {least}, got {text}\n')
    assert parser.parse_args([f'--runs={least}']).runs == least


def test_remarks_on_missing_packages_are_left_out_of_a_whole_command(capsys):
    """MMPretrain's comes late, with its datasets."""
    with pytest.raises(SystemExit), one_line_errors():
        print('Could not import OneDL. Skipping OneDL datasets.')
        print('a result')
        raise UserError('a problem')
    assert tuple(capsys.readouterr()) == ('a result\n', 'error: a problem\n')


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError


def said_of(capsys, error):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise error
    assert stop.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize('number, advice', [
    ('ENOSPC', 'Make room'), ('EDQUOT', 'Make room'), ('EROFS', 'Choose another place'),
    ('EFBIG', 'Allow larger files (ulimit -f)')])
def test_a_full_disk_is_one_line(capsys, number, advice):
    number = getattr(errno, number)
    assert said_of(capsys, OSError(number, os.strerror(number), 'scalars.json')) == (
        f"error: 'scalars.json' can't be written: {os.strerror(number)}. {advice}\n")


@pytest.mark.parametrize('number', ['EACCES', 'EISDIR', 'ENAMETOOLONG', 'EIO', 'ESTALE', 'EPERM'])
def test_a_place_that_does_not_do_is_one_line(capsys, number):
    """Whether it was to be read or written is not known, and no cause is guessed."""
    number = getattr(errno, number)
    assert said_of(capsys, OSError(number, os.strerror(number), 'scalars.json')) == (
        f"error: 'scalars.json' can't be read or written: {os.strerror(number)}\n")


def test_a_file_in_the_place_of_a_folder_is_named(capsys, tmp_path):
    (tmp_path / 'file').touch()
    for act in ((tmp_path / 'file').mkdir, (tmp_path / 'file' / 'a').mkdir, (tmp_path / 'file' / 'a').touch):
        with pytest.raises(SystemExit), one_line_errors():
            act()
        assert capsys.readouterr().err.endswith(f"can't be read or written: '{tmp_path}/file' is not a folder\n")


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='Linux has a device that is always full')
def test_a_full_disk_is_found_where_the_system_names_no_file(capsys):
    with pytest.raises(SystemExit), one_line_errors():
        mmengine.dump({'loss': 1.}, '/dev/full', file_format='json')  # as MMEngine writes results
    assert capsys.readouterr().err == "error: '/dev/full' can't be written: No space left on device. Make room\n"
    with pytest.raises(SystemExit), one_line_errors():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "'a file' can't be written" in capsys.readouterr().err


@pytest.mark.parametrize('error', [FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), 'gone'),
                                   PermissionError(errno.EPERM, os.strerror(errno.EPERM)),
                                   ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))])
def test_errors_that_are_of_no_place_keep_their_traceback(error):
    with pytest.raises(type(error)), one_line_errors():
        raise error


@pytest.mark.parametrize('tf32, expected', [('on', (True, True)), ('off', (False, False))])
def test_a_benchmarks_device_is_set_up(tf32, expected, tmp_path):
    parser = argparse.ArgumentParser()
    add_benchmark_options(parser)
    add_graphs_option(parser, 'graphs')
    device = set_up_device(parser.parse_args(['--device', 'cpu', '--threads', '1', '--tf32', tf32]))
    assert device.type == 'cpu' and torch.get_num_threads() == 1
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == expected
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match="file' is not a folder"):
        set_up_device(parser.parse_args(['--device', 'cpu', '--out', str(tmp_path / 'file' / 'out')]))
    with pytest.raises(UserError, match='--cuda-graphs needs a GPU'):
        set_up_device(parser.parse_args(['--device', 'cpu', '--cuda-graphs']))
