import pytest
import torch
from mmengine.config import Config
from mmengine.model import PretrainedInit
from safetensors.torch import save_file

from mmfasternet.checkpoints import convert, load_for_mmengine, load_pretrained_backbone
from mmfasternet.errors import CheckpointError, UserError
from mmfasternet.models import FasterNet
from tests.conftest import ROOT, SHAPES_CONFIG, build, randomize_norms
from tests.official import official_backbone, official_classifier

ARCHS = list(FasterNet.arch_settings)


@pytest.fixture
def source():
    backbone = FasterNet('t0', out_norm=False)
    randomize_norms(backbone)
    return backbone


@pytest.fixture(scope='module')
def detector():
    model = build(Config.fromfile(SHAPES_CONFIG).model)
    randomize_norms(model)
    return model


def saved(weights, path):
    save_file(weights, path) if path.suffix == '.safetensors' else torch.save(weights, path)
    return str(path)


def assert_same_features(target, source):
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(target.eval()(x), source.eval()(x)):
            assert torch.equal(a, b)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('form', ['official', 'timm', 'bare', 'classifier', 'official backbone'])
def test_all_layouts_load_through_init_cfg(tmp_path, source, form, suffix):
    official = official_classifier(source)
    weights = {'official': lambda: official, 'timm': lambda: convert(official, 'timm'), 'bare': source.state_dict,
               'classifier': lambda: convert(official), 'official backbone': lambda: official_backbone(source)}[form]()
    path = saved(weights, tmp_path / f'weights{suffix}')
    target = FasterNet('t0', out_norm=False, init_cfg=dict(type='Pretrained', checkpoint=path))
    target.init_weights()
    assert_same_features(target, source)


@pytest.mark.parametrize('arch', ARCHS)
def test_a_classifier_becomes_a_detectors_backbone(tmp_path, arch):
    """Only the output norms of the Mask R-CNN configs' backbones are not in a classifier's checkpoint."""
    classifier = convert(official_classifier(FasterNet(arch, out_indices=(3, ), out_norm=False)))
    config = Config.fromfile(ROOT / 'configs' / f'mask_rcnn_fasternet_{arch}_1x_coco.py').model.backbone
    path = saved(dict(state_dict=classifier, meta={}), tmp_path / 'classifier.pth')
    config.init_cfg = dict(type='Pretrained', checkpoint=path)
    backbone = build(config)
    missing, unexpected = backbone.load_state_dict(convert(classifier, 'backbone'), strict=False)
    assert not unexpected and {key.split('.')[0] for key in missing} == {f'norm{i}' for i in range(4)}
    backbone.init_weights()
    for key, value in convert(classifier, 'backbone').items():
        assert torch.equal(backbone.state_dict()[key], value)


def test_init_cfg_must_name_a_file(tmp_path, source):
    for config in (dict(type='Pretrained'), dict(type='Pretrained', checkpoint=None)):
        with pytest.raises(UserError, match='init_cfg.*needs checkpoint'):
            FasterNet('t0', init_cfg=config).init_weights()
    saved(source.state_dict(), tmp_path / 'a.pth')
    for kind in ('Pretrained', 'mmengine.Pretrained', PretrainedInit):
        target = FasterNet('t0', out_norm=False, init_cfg=dict(type=kind, checkpoint=tmp_path / 'a.pth'))
        target.init_weights()
        assert_same_features(target, source)


def test_only_output_norms_may_be_missing(tmp_path, source):
    path = saved(official_classifier(source), tmp_path / 'weights.pth')
    target = FasterNet('t0')
    load_pretrained_backbone(target, path)
    assert all(norm.weight.eq(1).all() for norm in (target.norm0, target.norm3))
    weights = official_classifier(source)
    del weights['stages.4.blocks.3.mlp.0.weight']
    with pytest.raises(CheckpointError, match=r'cut\.pth. lacks stages\.4\.blocks\.3\.mlp\.0\.weight\.'):
        load_pretrained_backbone(target, saved(weights, tmp_path / 'cut.pth'))
    weights = source.state_dict()
    del weights['stages.2.blocks.3.conv1.weight']
    with pytest.raises(CheckpointError, match=r'cut\.pth.*lacks stages\.2\.blocks\.3\.conv1\.weight\.'):
        load_pretrained_backbone(target, saved(weights, tmp_path / 'cut.pth'))


@pytest.mark.parametrize('arch', [arch for arch in ARCHS if arch != 't0'])
def test_the_wrong_variant_is_refused_by_name_and_nothing_loaded(tmp_path, source, arch):
    path = saved(official_classifier(source), tmp_path / 'weights.pth')
    target = FasterNet(arch)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=f'weights.pth.*holds FasterNet-T0, the model FasterNet-{arch.upper()}'):
        load_pretrained_backbone(target, path)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


@pytest.mark.parametrize('options, key', [
    (dict(in_channels=1), r'stages\.0\.downsample\.conv\.weight'), (dict(mlp_ratio=3), r'conv1\.weight'),
    (dict(partial_ratio=1 / 2), r'pconv\.conv\.weight'), (dict(layer_scale_init_value=1.), r'layer_scale\.weight')])
def test_other_options_are_refused_by_key(tmp_path, source, options, key):
    path = saved(source.state_dict(), tmp_path / 'weights.pth')
    with pytest.raises(CheckpointError, match=f'weights.pth.*{key}'):
        load_pretrained_backbone(FasterNet('t0', **options), path)


@pytest.mark.parametrize('content', [dict(epoch=1), {1: torch.zeros(1)}, dict(state_dict=dict(epoch=1))])
def test_a_file_without_weights_is_refused(tmp_path, content):
    path = saved(content, tmp_path / 'odd.pth')
    with pytest.raises(CheckpointError, match=r'odd\.pth. has no weights in it, only (epoch|1|state_dict)$'):
        load_pretrained_backbone(FasterNet('t0'), path)
    assert load_for_mmengine(path) == content


def test_another_networks_weights_are_refused(tmp_path):
    path = saved({'conv1.weight': torch.zeros(1)}, tmp_path / 'resnet.pth')
    with pytest.raises(CheckpointError, match=r'resnet\.pth. has no weights of FasterNet in it, only conv1\.weight'):
        load_pretrained_backbone(FasterNet('t0'), path)


def test_a_backbone_without_the_last_stages(tmp_path, source):
    path = saved(official_classifier(source), tmp_path / 'weights.pth')
    target = FasterNet('t0', out_indices=(0, 1, 2), out_norm=False)
    load_pretrained_backbone(target, path)
    assert_same_features(target, source)
    with pytest.raises(CheckpointError, match='holds FasterNet-T0, the model FasterNet-T1 with 3 of 4 stages'):
        load_pretrained_backbone(FasterNet('t1', out_indices=(0, 1, 2)), path)


def test_beside_other_initialisations(tmp_path, source):
    path = saved(official_classifier(source), tmp_path / 'weights.pth')
    target = FasterNet('t0', init_cfg=[dict(type='Constant', layer='BatchNorm2d', val=0.5),
                                       dict(type='Pretrained', checkpoint=path)])
    target.init_weights()
    assert target.norm0.weight.eq(0.5).all()
    assert torch.equal(target.stages[0].downsample.norm.weight, source.stages[0].downsample.norm.weight)


def test_other_networks_checkpoints_are_left_as_they_are(tmp_path):
    content = dict(state_dict={'module.conv1.weight': torch.zeros(1)}, meta=dict(CLASSES=('a', )), epoch=3)
    found = load_for_mmengine(saved(content, tmp_path / 'resnet.pth'))
    assert found == content


@pytest.mark.parametrize('prefix', ['image.encoder.', 'image.encoder'])
def test_a_prefix_says_where_the_backbone_is(tmp_path, source, prefix):
    other = FasterNet('t0')
    weights = {f'backbone.{key}': value for key, value in other.state_dict().items()}
    weights.update({f'image.encoder.{key}': value for key, value in official_backbone(source).items()})
    path = saved(weights, tmp_path / 'two.pth')
    target = FasterNet('t0', init_cfg=dict(type='Pretrained', checkpoint=path, prefix=prefix, map_location='cpu'))
    target.init_weights()
    assert torch.equal(target.stages[0].downsample.conv.weight, source.stages[0].downsample.conv.weight)
    assert not torch.equal(target.stages[0].downsample.conv.weight, other.stages[0].downsample.conv.weight)


def test_a_prefix_that_nothing_has_is_refused(tmp_path, source):
    weights = {f'backbone.{key}': value for key, value in source.state_dict().items()}
    path = saved({**weights, **{f'teacher_{key}': value for key, value in weights.items()}}, tmp_path / 'two.pth')
    with pytest.raises(CheckpointError, match=r"two\.pth' has no weights with the prefix 'teacher\.backbone\.'"):
        load_pretrained_backbone(FasterNet('t0'), path, 'teacher.backbone')


@pytest.mark.parametrize('prefix', ['backbone.', 'backbone', None])
def test_a_prefix_that_other_backbones_need_does_no_harm(tmp_path, source, prefix):
    """Configs of MMDetection name it for MMPretrain's classifiers; the authors' have none."""
    path = saved(official_classifier(source), tmp_path / 'bare.pth')
    target = FasterNet('t0', init_cfg=dict(type='Pretrained', checkpoint=path, prefix=prefix))
    target.init_weights()
    assert torch.equal(target.stages[3].blocks[1].conv2.weight, source.stages[3].blocks[1].conv2.weight)
