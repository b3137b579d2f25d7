import re

import pytest
import timm
import torch

from mmfasternet.checkpoints import convert, recognize
from mmfasternet.errors import CheckpointError
from mmfasternet.models import FasterNet
from mmfasternet.models.weights.layouts import rename_for
from tests.official import official_backbone, official_classifier

ARCHS = list(FasterNet.arch_settings)
ENTRIES = dict(t0=131, t1=131, t2=131, s=171, m=251, l=251)  # of a classifier; output norms are 20 - 3 more


def detector_weights(backbone):
    """Ours, with the keys of a neck and heads of Mask R-CNN for 80 classes."""
    weights = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    weights['neck.lateral_convs.0.conv.weight'] = torch.randn(256, backbone.stage_channels[0], 1, 1)
    weights['rpn_head.rpn_cls.weight'] = torch.randn(3, 256, 1, 1)
    weights['roi_head.bbox_head.fc_cls.weight'] = torch.randn(81, 1024)
    return weights


def assert_same(weights, others):
    """The same tensors under the same keys in the same order."""
    assert list(weights) == list(others)
    assert all(torch.equal(value, others[key]) for key, value in weights.items())


@pytest.fixture
def backbone():
    return FasterNet('t0', out_norm=False)


@pytest.mark.parametrize('arch', ARCHS)
def test_round_trips_are_bit_exact(arch):
    official = official_classifier(FasterNet(arch, out_norm=False))
    theirs = timm.create_model(f'fasternet_{arch}').state_dict()
    for weights, layout in ((official, 'official'), (theirs, 'timm')):
        ours = convert(weights)
        assert len(ours) == len(weights) == ENTRIES[arch]
        assert_same(convert(ours, layout), weights)
        assert_same(convert(convert(weights, 'timm' if layout == 'official' else 'official'), layout), weights)
    assert set(convert(official)) == set(convert(theirs))
    FasterNet(arch, out_norm=False).load_state_dict(convert(theirs, 'backbone'), strict=True)


@pytest.mark.parametrize('arch', ARCHS)
def test_detectors_round_trip(arch):
    ours = detector_weights(FasterNet(arch))
    official = convert(ours, 'official')
    assert 'backbone.norm6.running_mean' in official and 'neck.lateral_convs.0.conv.weight' in official
    assert len(official) - 3 == ENTRIES[arch] + 17
    assert_same(convert(official), ours)
    FasterNet(arch).load_state_dict(convert(official, 'backbone'), strict=True)


def test_backbones_round_trip(backbone):
    ours, official = FasterNet('t0').state_dict(), official_backbone(FasterNet('t0'))
    assert_same(convert(convert(ours, 'official'), 'backbone'), ours)
    assert set(convert(ours, 'official')) == set(official)
    prefixed = convert(ours)
    assert set(prefixed) == {f'backbone.{key}' for key in ours}
    assert_same(convert(prefixed, 'backbone'), ours)
    assert_same(convert(convert(backbone.state_dict(), 'timm'), 'backbone'), backbone.state_dict())


@pytest.mark.parametrize('arch', ARCHS)
def test_recognition(arch):
    backbone = FasterNet(arch, out_norm=False)
    official, ours = official_classifier(backbone, num_classes=21), detector_weights(FasterNet(arch))
    theirs = timm.create_model(f'fasternet_{arch}', num_classes=7).state_dict()
    for weights, layout, model, num_classes in (
        (official, 'official', 'classifier', 21),
        (convert(official), 'mmfasternet', 'classifier', 21),
        (theirs, 'timm', 'classifier', 7),
        (convert(ours, 'official'), 'official', 'detector', 80),
        (ours, 'mmfasternet', 'detector', 80),
        (official_backbone(backbone), 'official', 'backbone', None),
        (backbone.state_dict(), 'mmfasternet', 'backbone', None),
        (convert(backbone.state_dict()), 'mmfasternet', 'backbone', None),
        (convert(backbone.state_dict(), 'timm'), 'timm', 'backbone', None),
    ):
        kind = recognize(weights)
        assert (kind.layout, kind.model, kind.num_classes) == (layout, model, num_classes)
        assert kind.variant(FasterNet.arch_settings) == f'FasterNet-{arch.upper()}'


def test_another_size_has_a_description():
    kind = recognize(FasterNet(dict(embed_channels=8, depths=(1, 3)), out_indices=(1, )).state_dict())
    assert kind.variant(FasterNet.arch_settings) == 'FasterNet of 8 channels and 1-3 blocks'


@pytest.mark.parametrize('name', ['swin_tiny_patch4_window7_224', 'poolformer_s12', 'deit_tiny_patch16_224',
                                  'pvt_v2_b0', 'convnext_atto', 'efficientnet_b0'])
def test_networks_with_keys_of_the_same_names_are_not_recognized(name):
    weights = timm.create_model(name).state_dict()
    assert recognize(weights) is None
    assert recognize({f'backbone.{key}': value for key, value in weights.items()}) is None


def test_heads_with_keys_of_timms_names_do_not_mislead():
    official = convert(detector_weights(FasterNet('t0')), 'official')
    official['roi_head.bbox_head.classifier.weight'] = official['mask_head.conv_head.weight'] = torch.zeros(1)
    assert recognize(official).layout == 'official' and recognize(official).model == 'detector'


def test_another_network_is_refused():
    weights = timm.create_model('resnet18').state_dict()
    with pytest.raises(CheckpointError, match=r'no weights of FasterNet.*conv1\.weight.*122 keys'):
        convert(weights)


def test_ours_are_checked_as_well_unless_a_model_will_tell(backbone):
    for weights in (convert(official_classifier(backbone)), detector_weights(FasterNet('t0')), backbone.state_dict()):
        prefix = 'backbone.' if 'backbone.stages.0.downsample.conv.weight' in weights else ''
        for key, change, problem in (
            ('stages.2.blocks.1.conv1.weight', lambda w, k: w.pop(k), 'lacks'),
            ('stages.2.blocks.1.conv2.weight', lambda w, k: w.update({k: w[k][:3]}), 'other shapes'),
            ('stages.2.blocks.1.attention.weight', lambda w, k: w.update({k: torch.zeros(1)}), 'unknown'),
        ):
            spoilt = dict(weights)
            change(spoilt, prefix + key)
            for to in ('mmfasternet', 'backbone'):
                with pytest.raises(CheckpointError, match=f"{problem} .*{key}"):
                    convert(spoilt, to)
                assert len(convert(spoilt, to, strict=False)) in range(120, 155)


def test_an_index_beyond_reason_is_no_depth(backbone):
    weights = official_classifier(backbone)
    weights['stages.10000000000.blocks.0.mlp.0.weight'] = torch.zeros(1)
    assert recognize(weights).depths == (1, 2, 8, 2)


def test_layer_scale_is_a_bare_parameter_elsewhere():
    theirs = timm.models.fasternet.FasterNet(embed_dim=8, depths=(1, 1), layer_scale_init_value=0.5).state_dict()
    ours = convert(theirs)
    assert ours['backbone.stages.1.blocks.0.layer_scale.weight'].eq(0.5).all()
    assert_same(convert(ours, 'timm'), theirs)
    FasterNet(dict(embed_channels=8, depths=(1, 1)), out_indices=(1, ), out_norm=False,
              layer_scale_init_value=1.).load_state_dict(convert(theirs, 'backbone'), strict=True)
    del theirs['stages.1.blocks.0.layer_scale']
    with pytest.raises(CheckpointError, match=r'lacks stages\.1\.blocks\.0\.layer_scale$'):
        convert(theirs)
    wide = timm.models.fasternet.FasterNet(embed_dim=8, depths=(1, 2), layer_scale_init_value=0.5).state_dict()
    del wide['stages.1.blocks.1.layer_scale']
    with pytest.raises(CheckpointError, match=r'lacks stages\.1\.blocks\.1\.layer_scale$'):
        convert(wide)


@pytest.mark.parametrize('key', ['stages.0.blocks.0.mlp.2.weight', 'fc.weight', 'stages.x.reduction.weight',
                                 'stages.0.blocks.0.mlp.0.weight.weight', 'stages.7.reduction.weight'])
def test_an_unknown_key_is_named(backbone, key):
    weights = official_classifier(backbone)
    weights[key] = torch.zeros(1)
    with pytest.raises(CheckpointError, match='without an equivalent in the official layout: ' + re.escape(key)):
        convert(weights)


def test_an_entry_that_a_layer_does_not_have_is_named(backbone):
    weights = official_classifier(backbone)
    weights['stages.1.reduction.bias'] = torch.zeros(80)
    with pytest.raises(CheckpointError, match=r'unknown stages\.1\.reduction\.bias'):
        convert(weights)


@pytest.mark.parametrize('key', ['stages.4.blocks.3.mlp.0.weight', 'stages.6.blocks.0.mlp.1.running_var',
                                 'patch_embed.norm.weight', 'head.bias', 'avgpool_pre_head.1.weight',
                                 'stages.3.reduction.weight'])
def test_a_missing_key_is_named_as_the_file_would_have_it(backbone, key):
    weights = official_classifier(backbone)
    del weights[key]
    with pytest.raises(CheckpointError, match='lacks .*' + key.replace('.', r'\.')):
        convert(weights)


def test_all_missing_keys_are_listed_up_to_ten(backbone):
    weights = {key: value for key, value in official_classifier(backbone).items() if 'stages.4.blocks.2' not in key}
    with pytest.raises(CheckpointError) as caught:
        convert(weights)
    assert str(caught.value).count('stages.4.blocks.2.') == 8  # three convolutions and the five entries of a norm
    weights = {key: value for key, value in weights.items() if 'mlp.0' not in key}
    with pytest.raises(CheckpointError, match=r'\.\.\. \(20 keys\)'):
        convert(weights)


@pytest.mark.parametrize('key', ['patch_embed.norm.bias', 'stages.1.reduction.weight', 'stages.4.blocks.5.mlp.0.weight',
                                 'stages.4.blocks.5.mlp.3.weight',
                                 'stages.2.blocks.1.spatial_mixing.partial_conv3.weight',
                                 'head.bias'])
def test_a_shape_that_does_not_fit_the_others_is_named(backbone, key):
    weights = official_classifier(backbone)
    weights[key] = weights[key][:3]
    with pytest.raises(CheckpointError, match='other shapes for .*' + key.replace('.', r'\.')):
        convert(weights)


def test_timm_has_no_place_for_output_norms_and_detectors():
    with pytest.raises(CheckpointError, match=r'timm layout: norm0\.weight'):
        convert(FasterNet('t0').state_dict(), 'timm')
    with pytest.raises(CheckpointError, match=r'timm layout:.*neck'):
        convert(detector_weights(FasterNet('t0', out_norm=False)), 'timm')


def test_a_classifier_with_another_head_is_refused_elsewhere(backbone):
    weights = convert(backbone.state_dict())
    weights['head.fc.weight'], weights['head.fc.bias'] = torch.zeros(10, 320), torch.zeros(10)
    assert_same(convert(weights), weights)
    assert recognize(weights).num_classes == 10
    with pytest.raises(CheckpointError, match=r'lacks head\.conv\.weight'):
        convert(weights, 'official')
    assert_same(convert(weights, 'backbone'), backbone.state_dict())


def test_another_target_is_refused(backbone):
    with pytest.raises(ValueError, match="to must be one of .*'tim'"):
        convert(backbone.state_dict(), 'tim')


def test_a_classifier_without_its_head_still_gives_a_backbone(backbone):
    theirs = timm.create_model('fasternet_t0', num_classes=0).state_dict()
    with pytest.raises(CheckpointError, match=r'lacks classifier\.weight'):
        convert(theirs)
    backbone.load_state_dict(convert(theirs, 'backbone'), strict=True)


def test_renaming_in_place_keeps_the_order_and_all_else(backbone):
    weights = {f'a.{key}': value for key, value in official_classifier(backbone).items()}
    weights = {'b.patch_embed.proj.weight': torch.zeros(1), **weights, 'a.b': torch.zeros(2)}
    values, own = list(weights.values()), backbone.state_dict()
    rename_for('backbone', weights, 'a.')
    assert all(a is b for a, b in zip(weights.values(), values, strict=True))
    assert {key for key in weights if key.removeprefix('a.') not in own} == {
        'b.patch_embed.proj.weight', 'a.b', 'a.avgpool_pre_head.1.weight', 'a.head.weight', 'a.head.bias'}
    assert all(torch.equal(weights[f'a.{key}'], value) for key, value in own.items())


def test_renaming_does_not_overwrite_what_has_the_name_already(backbone):
    weights = official_backbone(backbone)
    weights['stages.0.blocks.0.conv1.weight'] = torch.zeros(1)
    rename_for('backbone', weights)
    assert weights['stages.0.blocks.0.conv1.weight'].shape == (1, ) and 'stages.0.blocks.0.mlp.0.weight' in weights
    assert 'stages.0.blocks.0.conv2.weight' in weights


@pytest.mark.parametrize('part', ['classifier', 'backbone'])
def test_renaming_leaves_ours_and_other_networks_as_they_are(backbone, part):
    ours = convert(official_classifier(backbone))
    for weights in (ours, timm.create_model('convnext_atto').state_dict(), dict(a=torch.zeros(1), b=None), {}):
        renamed = dict(weights)
        rename_for(part, renamed)
        kept = [key.removeprefix('backbone.') if part == 'backbone' and weights is ours else key for key in weights]
        assert list(renamed) == kept


def test_renaming_does_not_look_into_the_weights(backbone):
    weights = dict.fromkeys(official_classifier(backbone))
    weights['patch_embed.proj.weight'] = torch.tensor(0.)
    rename_for('classifier', weights)
    assert list(weights) == list(convert(official_classifier(backbone)))
