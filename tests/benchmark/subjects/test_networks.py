import sys

import pytest
import timm
from torch.nn.modules.batchnorm import _BatchNorm

from mmfasternet.benchmark.subjects.classifiers import count_as_table_3
from mmfasternet.benchmark.subjects.networks import _NEWER, NETWORKS, find_network
from mmfasternet.errors import ArgumentError, UserError

# Millions of parameters, 10^9 multiply-adds and top-1 accuracy as their authors print them, and how far off each of the
# first two may be: half of the last digit, unless said otherwise.
PUBLISHED = {
    # Table 1 has FLOPs; the parameters are those of torchvision's ResNet18_Weights.
    'ResNet-18': ((11.689512, 1e-6), (1.8, .05), 100 - 27.88),
    # The paper counts batch norms: 1.050 are those of PaddleClas, which builds it on its own and does not.
    'StarNet-S4': ((7.5, .05), (1.050, .0006), 78.4),
    'RepViT-M1.1': ((8.2, .05), (1.3, .05), 80.7),
    # Papers that compare with it print 0.65 M less.
    'FastViT-SA12': ((10.9, .65), (1.9, .05), 80.9),
    # The paper has 9.2 M and 1.0 G: these are of github.com/d-li14/mobilenetv4.pytorch, another's implementation.
    'MobileNetV4-Conv-M': ((9.72, .005), (1.080, .0005), 79.9),
    # Not printed: its file in PaddleX's list of models has 70.4 MB where that of ResNet50 (25.557 M) has 90.8.
    'HGNetV2-B4': ((70.4 / 90.8 * 25.557, .05), None, 83.57),
    'EfficientViT-B1': ((9.1, .05), (.52, .005), 79.39),
    'ConvNeXtV2-Nano': ((15.6, .05), (2.45, .006), 81.9),  # without layer norms, 0.06 G here
}


@pytest.mark.parametrize('name', list(PUBLISHED))
def test_newer_networks_are_those_of_their_authors(name):
    counted = count_as_table_3(NETWORKS[name])
    (parameters, off), multiply_adds, accuracy = PUBLISHED[name]
    assert counted.parameters / 1e6 == pytest.approx(parameters, abs=off)
    if multiply_adds:
        assert counted.multiply_adds / 1e9 == pytest.approx(multiply_adds[0], abs=multiply_adds[1])
    assert NETWORKS[name].accuracy == pytest.approx(accuracy)


def test_newer_networks_have_a_source_and_timms_size():
    assert {row[0] for row in _NEWER} == set(PUBLISHED)
    for name, _, timm_name, size, _, source in _NEWER:
        assert NETWORKS[name].source == source != '' and timm.get_pretrained_cfg(timm_name).input_size[1] == size


@pytest.mark.parametrize('name, size', [('resnet34', 224), ('efficientvit_b1.r288_in1k', 288), ('test_vit', 160)])
def test_any_network_of_timm_has_its_own_size(name, size):
    network = find_network(f'timm:{name}')
    assert (network.name, network.size, network.accuracy) == (f'timm:{name}', size, None)


def test_a_row_by_its_name_in_timm_has_its_accuracy():
    assert find_network('timm:starnet_s4').accuracy == 78.4 and find_network('timm:starnet_s4').family == 'StarNet'
    assert find_network('timm:ghostnet_100').accuracy == NETWORKS['GhostNet'].accuracy
    assert find_network('timm:resnet34').family == 'resnet'  # timm's module


def test_classes_are_those_of_imagenet_and_branches_are_merged():
    model = find_network('timm:convnext_atto').build()
    assert model.num_classes == 1000
    # timm's weights of this one have 21,841 classes.
    assert find_network('timm:resnetv2_50x1_bit.goog_in21k').build().num_classes == 1000
    assert not any(isinstance(module, _BatchNorm) for module in NETWORKS['RepViT-M1.1'].build().modules())


@pytest.mark.parametrize('name, part', [
    ('timm:resnett18', "lists no network 'resnett18'. Similar names: resnet18, "),
    ('timm:resnet18.a9_in1k', 'Similar names: resnet18.a1_in1k, '),
    ('timm:qqqqqqqq', 'timm.list_models()'),
    ('timm:hf-hub:timm/resnet18', 'lists no network'),
    ('timm:vit_base_patch16_sapiens2', '1024 x 768'),
])
def test_what_timm_does_not_list_is_one_line(name, part):
    with pytest.raises(UserError, match='timm') as error:
        find_network(name)
    assert part in str(error.value) and '\n' not in str(error.value)


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    for build in (lambda: find_network('timm:resnet34'), lambda: find_network('timm:resnet18'),
                  NETWORKS['StarNet-S4'].build):
        with pytest.raises(UserError, match='pip install timm'):
            build()
    assert find_network('FasterNet-T0')
    with pytest.raises(ArgumentError, match='FasterNet-T0, .*timm:NAME'):
        find_network('FasterNet-T9')
