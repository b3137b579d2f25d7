import urllib.error

import pytest
import torch

from mmfasternet.checkpoints import load_pretrained_backbone, reading
from mmfasternet.checkpoints.official import official_to_backbone
from mmfasternet.errors import CheckpointError
from mmfasternet.models import FasterNet
from tests.conftest import randomize_norms


def official_weights(backbone):
    """The backbone's weights under the names of the published files, written down from those names."""
    weights = {}
    for stage_index, stage in enumerate(backbone.stages):
        patch = stage.downsample
        conv, norm = (('patch_embed.proj', 'patch_embed.norm') if stage_index == 0 else
                      (f'stages.{2 * stage_index - 1}.reduction', f'stages.{2 * stage_index - 1}.norm'))
        modules = {conv: patch.conv, norm: patch.norm}
        for block_index, block in enumerate(stage.blocks):
            prefix = f'stages.{2 * stage_index}.blocks.{block_index}'
            modules[f'{prefix}.spatial_mixing.partial_conv3'] = block.pconv.conv
            modules[f'{prefix}.mlp.0'] = block.conv1
            modules[f'{prefix}.mlp.1'] = block.norm
            modules[f'{prefix}.mlp.3'] = block.conv2
        for prefix, module in modules.items():
            weights.update({f'{prefix}.{name}': value for name, value in module.state_dict().items()})
    channels = backbone.stage_channels[-1]
    weights['avgpool_pre_head.1.weight'] = torch.randn(1280, channels, 1, 1)
    weights['head.weight'], weights['head.bias'] = torch.randn(1000, 1280), torch.randn(1000)
    return weights


@pytest.fixture
def source():
    backbone = FasterNet('t0', out_norm=False)
    randomize_norms(backbone)
    return backbone


def saved(weights, path):
    torch.save(weights, path)
    return str(path)


def assert_same_features(target, source):
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(target.eval()(x), source.eval()(x)):
            assert torch.equal(a, b)


@pytest.mark.parametrize('form', ['official', 'bare', 'classifier'])
def test_loads_through_init_cfg(tmp_path, source, form):
    weights = official_weights(source) if form == 'official' else source.state_dict()
    assert len(official_weights(source)) == 131
    if form == 'classifier':
        weights = {f'backbone.{key}': value for key, value in weights.items()}
        weights['head.fc.weight'] = torch.zeros(1000, 320)
        weights = dict(state_dict=weights, meta={})
    path = saved(weights, tmp_path / 'weights.pth')
    target = FasterNet('t0', out_norm=False, init_cfg=dict(type='Pretrained', checkpoint=path))
    target.init_weights()
    assert_same_features(target, source)


def test_only_output_norms_may_be_missing(tmp_path, source):
    path = saved(official_weights(source), tmp_path / 'weights.pth')
    target = FasterNet('t0')
    load_pretrained_backbone(target, path)
    assert all(norm.weight.eq(1).all() for norm in (target.norm0, target.norm3))
    weights = official_weights(source)
    del weights['stages.4.blocks.3.mlp.0.weight']
    with pytest.raises(CheckpointError, match=r'lacks stages\.2\.blocks\.3\.conv1\.weight \(1 keys'):
        load_pretrained_backbone(target, saved(weights, tmp_path / 'cut.pth'))


@pytest.mark.parametrize('arch, problem', [('t1', 'other shapes'), ('s', 'lacks')])
def test_the_wrong_variant_is_refused_and_nothing_loaded(tmp_path, source, arch, problem):
    path = saved(official_weights(source), tmp_path / 'weights.pth')
    target = FasterNet(arch)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=f'weights.pth.*{problem}'):
        load_pretrained_backbone(target, path)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


@pytest.mark.parametrize('key', ['stages.0.blocks.0.mlp.2.weight', 'fc.weight', 'stages.x.reduction.weight'])
def test_an_unknown_official_key_is_named(source, key):
    weights = official_weights(source)
    weights[key] = torch.zeros(1)
    with pytest.raises(KeyError, match=key.replace('.', r'\.')):
        official_to_backbone(weights)


def test_output_norms_of_official_detectors(tmp_path):
    source, target = FasterNet('t0'), FasterNet('t0')
    randomize_norms(source)
    weights = official_weights(source)
    for index in range(4):
        norm = getattr(source, f'norm{index}').state_dict()
        weights.update({f'norm{2 * index}.{name}': value for name, value in norm.items()})
    assert len(weights) - 3 == 148
    load_pretrained_backbone(target, saved({f'backbone.{k}': v for k, v in weights.items()}, tmp_path / 'det.pth'))
    assert_same_features(target, source)


def test_a_backbone_without_the_last_stages(tmp_path, source):
    target = FasterNet('t0', out_indices=(0, 1, 2), out_norm=False)
    load_pretrained_backbone(target, saved(official_weights(source), tmp_path / 'weights.pth'))
    assert_same_features(target, source)


def test_beside_other_initialisations(tmp_path, source):
    path = saved(official_weights(source), tmp_path / 'weights.pth')
    target = FasterNet('t0', init_cfg=[dict(type='Constant', layer='BatchNorm2d', val=0.5),
                                       dict(type='Pretrained', checkpoint=path)])
    target.init_weights()
    assert target.norm0.weight.eq(0.5).all()
    assert torch.equal(target.stages[0].downsample.norm.weight, source.stages[0].downsample.norm.weight)


@pytest.mark.parametrize('content', [b'', b'<html>', b'PK\x03\x04 cut'])
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / 'broken.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='broken.pth') as caught:
        load_pretrained_backbone(FasterNet('t0'), str(path))
    assert '\n' not in str(caught.value)


def test_a_truncated_file_is_named(tmp_path, source):
    path = tmp_path / 'cut.pth'
    torch.save(source.state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match='cut.pth'):
        load_pretrained_backbone(FasterNet('t0'), str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match='nowhere.pth'):
        load_pretrained_backbone(FasterNet('t0'), str(tmp_path / 'nowhere.pth'))


def test_without_a_network_the_file_and_its_place_are_named(monkeypatch):

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError('no route')

    monkeypatch.setattr(reading.CheckpointLoader, 'load_checkpoint', unreachable)
    with pytest.raises(CheckpointError) as caught:
        load_pretrained_backbone(FasterNet('t0'), 'https://example.org/release/weights.pth')
    for part in ('weights.pth could not be downloaded', 'https://example.org/release/weights.pth', 'no route',
                 f'{torch.hub.get_dir()}/checkpoints/', 'init_cfg'):
        assert part in str(caught.value)
