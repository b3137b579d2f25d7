import subprocess
import sys

import pytest
import torch

from mmfasternet.deploy.tf32 import set_tf32, tf32
from mmfasternet.errors import ArgumentError


@pytest.mark.parametrize('name, expected', [('on', (True, True)), ('off', (False, False)),
                                            ('convolutions', (True, False))])
def test_both_settings(name, expected):
    set_tf32(name)
    assert tf32() == expected == (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)


def test_an_unknown_setting():
    with pytest.raises(ArgumentError, match="got 'some'"):
        set_tf32('some')


@pytest.mark.slow
@pytest.mark.parametrize('lines, expected', [
    ("torch.backends.cudnn.conv.fp32_precision = 'ieee'", (False, False)),
    ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", (True, True)),
    ("torch.backends.fp32_precision = 'tf32'; set_tf32('off')", (False, False)),
    ("torch.backends.fp32_precision = 'tf32'; set_tf32('convolutions')", (True, False)),
    ("torch.backends.fp32_precision = 'ieee'; set_tf32('on')", (True, True)),
])
def test_programs_that_use_the_newer_way(lines, expected):
    """In a process of its own: PyTorch refuses to read the older one from then on."""
    if not hasattr(torch.backends.cuda.matmul, 'fp32_precision'):
        pytest.skip('this PyTorch has one way only')
    code = f'import torch\nfrom mmfasternet.deploy.tf32 import set_tf32, tf32\n{lines}\nprint(tf32())'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == str(expected), done.stderr
