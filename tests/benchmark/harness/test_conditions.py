from dataclasses import replace

import pytest
import torch

from mmfasternet.benchmark.harness import conditions as module
from mmfasternet.benchmark.harness.conditions import Conditions

CPU = torch.device('cpu')
HERE = Conditions(((8, 16), ), 2).on(CPU)


def test_the_machine_is_among_them():
    assert HERE.threads == torch.get_num_threads() and HERE.versions['torch'] == torch.__version__ and HERE.device
    assert HERE.describe().startswith(
        'batch 2, 8x16 pixels, float32, NCHW, eager, weights: random, images: random, on ')
    assert 'eager' not in HERE.describe(form=False) and '8x16' in HERE.describe(form=False)
    assert replace(HERE, weights=None).describe().count('random') == 1
    assert Conditions(((8, 16), (16, 8))).input_size == '8x16, 16x8' and Conditions(()).input_size == '-'


def test_tf32_is_a_field(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'a GPU')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (8, 0))
    monkeypatch.setattr(module, 'tf32', lambda: (True, False))
    found = HERE.on(torch.device('cuda'))
    assert found.tf32 == ('convolutions', ) and found.device == 'a GPU'
    assert found.processor == 'a GPU (TF32 in convolutions)'
    assert replace(HERE, dtype=torch.float16).on(torch.device('cuda')).tf32 == ()
    assert HERE.tf32 == ()


@pytest.mark.parametrize('change', [
    dict(sizes=((8, 8), )), dict(batch_size=1), dict(dtype=torch.float16), dict(memory_format='NHWC'),
    dict(form='deploy'), dict(algorithm='conv'), dict(compiled=True), dict(graphs=True), dict(weights='a.pth'),
    dict(images='b'), dict(device='c'), dict(tf32=('convolutions', )), dict(threads=99), dict(versions={'torch': '0'})])
def test_what_differs_is_not_compared(change):
    assert HERE.comparable(HERE) and not HERE.comparable(replace(HERE, **change))


def test_libraries_that_one_does_not_know_of_do_not_matter():
    more = replace(HERE, versions={**HERE.versions, 'another': '1'})
    assert HERE.comparable(more) and more.comparable(HERE)
    assert not more.comparable(replace(HERE, versions={'another': '2'}))


def test_compiling_and_graphs_are_no_text():
    both = replace(HERE, form='deploy', compiled=True, graphs=True)
    assert both.full_form == 'deploy, compile, CUDA graphs'
    assert both.same_form(replace(both, batch_size=9)) and not both.same_form(replace(both, graphs=False))
    assert not both.same_form(replace(both, dtype=torch.float16))
