import argparse
import errno
import os
import warnings
from contextlib import nullcontext

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mmfasternet.cli.options import (
    add_benchmark_options,
    add_graphs_option,
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


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError


def test_a_full_disk_is_one_line(capsys):
    with pytest.raises(SystemExit), one_line_errors():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'scalars.json')
    assert capsys.readouterr().err == "error: 'scalars.json' can't be written: No space left on device. Make room\n"
    with pytest.raises(PermissionError), one_line_errors():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), 'scalars.json')


@pytest.mark.parametrize('tf32, expected', [('on', (True, True)), ('off', (False, False))])
def test_a_benchmarks_device_is_set_up(tf32, expected):
    parser = argparse.ArgumentParser()
    add_benchmark_options(parser)
    add_graphs_option(parser, 'graphs')
    device = set_up_device(parser.parse_args(['--device', 'cpu', '--threads', '1', '--tf32', tf32]))
    assert device.type == 'cpu' and torch.get_num_threads() == 1
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == expected
    with pytest.raises(UserError, match='--cuda-graphs needs a GPU'):
        set_up_device(parser.parse_args(['--device', 'cpu', '--cuda-graphs']))
