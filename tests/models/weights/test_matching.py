import pytest
import torch

from mmfasternet.models import FasterNet
from mmfasternet.models.weights.matching import misfit_of_backbone, misfit_of_model, misfit_of_start, other_variant

ARCHS = FasterNet.arch_settings
ALL = (0, 1, 2, 3)


def weights_of(arch='t0', **options):
    return FasterNet(arch, **options).state_dict()


def in_a_model(weights, **others):
    return {f'backbone.{key}': value for key, value in weights.items()} | others


@pytest.fixture(scope='module')
def with_norms():
    return weights_of()


@pytest.fixture(scope='module')
def without_norms():
    return weights_of(out_norm=False)


def test_output_norms_may_be_missing_on_either_side(with_norms, without_norms):
    assert len(with_norms) - len(without_norms) == 4 * 5
    for own, weights in ((with_norms, without_norms), (without_norms, with_norms), (with_norms, with_norms)):
        assert misfit_of_backbone(own, weights) == misfit_of_start(in_a_model(own), in_a_model(weights)) == ''


def test_a_part_of_an_output_norm_is_too_little(with_norms):
    weights = {key: value for key, value in with_norms.items() if key != 'norm2.bias'}
    assert misfit_of_backbone(with_norms, weights) == ''  # a classifier's, with nothing to tell them apart
    assert misfit_of_model(in_a_model(with_norms), in_a_model(weights), ALL) == 'lacks backbone.norm2.bias'


def test_stages_that_are_not_built_may_be_there_and_those_that_are_must(with_norms):
    own = weights_of(out_indices=(0, 1))
    assert misfit_of_backbone(own, with_norms) == ''
    assert misfit_of_model(in_a_model(own), in_a_model(with_norms), (0, 1)) == ''
    assert misfit_of_backbone(with_norms, own).startswith('lacks stages.2.downsample.conv.weight, ')
    # 11 keys of each block and 6 of a merging layer: 8 and 2 blocks
    blocks = {key for key in with_norms if key.startswith(('stages.2.', 'stages.3.'))}
    assert f'({len(blocks)} keys)' in misfit_of_backbone(with_norms, own) and len(blocks) == 10 * 8 + 2 * 6


def test_norms_of_stages_that_are_not_returned_have_no_use(with_norms):
    own = weights_of(out_indices=(1, 3))
    assert misfit_of_model(in_a_model(own), in_a_model(with_norms), (1, 3)) == ''
    unnormed = weights_of(out_indices=(1, 3), out_norm=False)
    problem = misfit_of_model(in_a_model(unnormed), in_a_model(with_norms), (1, 3))
    assert problem.startswith('has the unknown backbone.norm1.weight, ') and 'norm0' not in problem


def test_a_model_needs_its_heads_and_ignores_others(with_norms):
    head = dict(head=torch.zeros(2))
    own = in_a_model(with_norms, **head)
    assert misfit_of_model(own, in_a_model(with_norms, **head, teacher=torch.zeros(1)), ALL) == ''
    assert misfit_of_model(own, in_a_model(with_norms), ALL) == 'lacks head'
    other = in_a_model(with_norms, head=torch.zeros(3))
    assert misfit_of_model(own, other, ALL) == 'has other shapes for head: (3,) instead of (2,)'
    assert misfit_of_start(own, other) == ''


def test_keys_that_no_fasternet_has_are_unknown(with_norms):
    weights = {**with_norms, 'stages.0.attention': torch.zeros(1)}
    assert misfit_of_backbone(with_norms, weights) == 'has the unknown stages.0.attention'
    assert misfit_of_model(in_a_model(with_norms), in_a_model(weights), ALL) == (
        'has the unknown backbone.stages.0.attention')


def test_another_variant_is_said_in_a_word(with_norms):
    own = weights_of('t1', out_indices=(0, 1, 2))
    for wrapped in (dict, in_a_model):
        assert other_variant(wrapped(own), wrapped(with_norms), ARCHS) == (
            'it holds FasterNet-T0, the model FasterNet-T1 with 3 of 4 stages')
        assert other_variant(wrapped(weights_of(out_indices=(0, ))), wrapped(with_norms), ARCHS) == ''
    assert other_variant(with_norms, {'conv1.weight': torch.zeros(1)}, ARCHS) == ''
