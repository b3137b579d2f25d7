import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from torch import nn

from mmfasternet.errors import ArgumentError
from mmfasternet.models import FasterNet
from mmfasternet.models.layers import LayerNorm2d
from tests.conftest import randomize_norms

ARCHS = list(FasterNet.arch_settings)
CHANNELS = dict(
    t0=(40, 80, 160, 320), t1=(64, 128, 256, 512), t2=(96, 192, 384, 768), s=(128, 256, 512, 1024),
    m=(144, 288, 576, 1152), l=(192, 384, 768, 1536))
# Parameters, multiply-adds of convolutions at 224 x 224, state-dict entries, with a norm on each of the four outputs.
COUNTS = dict(
    t0=(2216100, 333733120, 148), t1=(5660928, 848576512, 148), t2=(12721728, 1902071808, 148),
    s=(28593152, 4547149824, 188), m=(50770224, 8719183872, 268), l=(90223872, 15491137536, 268))


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model, size=224):
    counted = FlopAnalyzer(model, torch.rand(1, 3, size, size))
    counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return counted.by_operator()['conv']


@pytest.mark.parametrize('arch', ARCHS)
def test_counts(arch):
    model = FasterNet(arch).eval()
    params, macs, entries = COUNTS[arch]
    assert parameters(model) == params
    assert len(model.state_dict()) == entries
    assert multiply_adds(model) == macs


@pytest.mark.parametrize('arch', ARCHS)
def test_shapes_and_gradients(arch):
    model = FasterNet(arch, drop_path_rate=0.1)
    outs = model(torch.randn(2, 3, 64, 64))
    assert [tuple(out.shape) for out in outs] == [(2, c, 16 >> i, 16 >> i) for i, c in enumerate(CHANNELS[arch])]
    sum(out.square().mean() for out in outs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert name.startswith('norm') or parameter.grad.abs().sum() > 0, name


def test_pconv_modes_agree_over_the_network():
    split_cat, slicing = FasterNet('t0').eval(), FasterNet('t0', pconv_mode='slicing').eval()
    randomize_norms(split_cat)
    slicing.load_state_dict(split_cat.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(slicing(x), split_cat(x)):
            assert torch.equal(a, b)


def test_arch_as_a_dict():
    model = FasterNet(dict(embed_channels=8, depths=(1, 1, 1)), out_indices=(0, 2))
    assert [out.shape[1] for out in model(torch.rand(2, 3, 32, 32))] == [8, 32]
    assert any(isinstance(m, nn.ReLU) for m in model.modules())
    gelu = FasterNet(dict(embed_channels=8, depths=(1, ), act_cfg=dict(type='GELU')), out_indices=(0, ))
    assert any(isinstance(m, nn.GELU) for m in gelu.modules())


@pytest.mark.parametrize('arch, activation', [('t0', nn.GELU), ('t1', nn.GELU), ('t2', nn.ReLU), ('l', nn.ReLU)])
def test_activations_are_table_8s(arch, activation):
    model = FasterNet(arch)
    found = [m for m in model.modules() if isinstance(m, (nn.ReLU, nn.GELU))]
    assert len(found) == sum(model.arch_settings[arch]['depths'])  # one a block, none after embedding or merging
    assert all(isinstance(m, activation) for m in found)


@pytest.mark.parametrize('kwargs, names', [
    (dict(arch='xl'), 'arch'),
    (dict(arch=dict(depths=(1, ))), 'embed_channels'),
    (dict(arch=dict(embed_channels=8, depths=(1, ), width=3)), 'width'),
    (dict(arch=dict(embed_channels=8, depths=())), 'depths'),
    (dict(arch=dict(embed_channels=8, depths=(1, 0))), 'depths'),
    (dict(out_indices=(0, 4)), 'out_indices'),
    (dict(out_indices=()), 'out_indices'),
    (dict(out_indices=(1, 0)), 'out_indices'),
    (dict(out_indices=(1, 1)), 'out_indices'),
    (dict(out_indices=(-5, )), 'out_indices'),
    (dict(frozen_stages=5), 'frozen_stages'),
    (dict(frozen_stages=-2), 'frozen_stages'),
    (dict(drop_path_rate=1), 'drop_path_rate'),
    (dict(mlp_ratio=0), 'mlp_ratio'),
    (dict(in_channels=0), 'in_channels'),
    (dict(partial_ratio=0.01), 'partial_ratio'),
    (dict(pconv_mode='fast'), 'mode'),
])
def test_bad_arguments_are_named(kwargs, names):
    with pytest.raises(ValueError, match=names):
        FasterNet(**kwargs)


def test_an_unknown_argument_is_refused():
    with pytest.raises(TypeError, match='norm_evall'):
        FasterNet('t0', norm_evall=True)


def test_out_indices():
    x = torch.rand(1, 3, 64, 64)
    model = FasterNet('t0', out_indices=[-2, -1]).eval()
    assert model.out_indices == (2, 3)
    assert [out.shape[1] for out in model(x)] == [160, 320]
    assert len(FasterNet('t0', out_indices=3).eval()(x)) == 1
    indices = [0, -1]
    FasterNet('t0', out_indices=indices)
    assert indices == [0, -1]


def test_stages_behind_the_last_output_are_not_built():
    model = FasterNet('t0', out_indices=(0, 2), drop_path_rate=0.12, frozen_stages=3)
    assert len(model.stages) == 3 and model.stages[2].blocks[-1].drop_path.drop_prob == pytest.approx(0.1)
    full = FasterNet('t0')
    model.load_state_dict(full.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 64)
    for a, b in zip(model.eval()(x), full.eval()(x)[::2]):
        assert torch.equal(a, b)


def test_out_norm():
    with_norm, without = FasterNet('t0').eval(), FasterNet('t0', out_norm=False).eval()
    randomize_norms(with_norm)
    missing, unexpected = without.load_state_dict(with_norm.state_dict(), strict=False)
    assert not missing and all(key.startswith('norm') for key in unexpected) and len(unexpected) == 20
    x = torch.rand(1, 3, 64, 64)
    for index, (a, b) in enumerate(zip(with_norm(x), without(x))):
        torch.testing.assert_close(a, getattr(with_norm, f'norm{index}')(b))


def test_stochastic_depth_grows_linearly_over_all_blocks():
    model = FasterNet('s', drop_path_rate=0.17)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    assert len(rates) == 18
    torch.testing.assert_close(rates, [0.17 * i / 17 for i in range(18)])


@pytest.mark.parametrize('frozen', [-1, 0, 1, 2, 4])
def test_frozen_stages(frozen):
    model = FasterNet('t0', frozen_stages=frozen).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad] or [torch.zeros(1)], lr=0.1)
    outs = model(torch.randn(2, 3, 64, 64))
    if frozen < 4:
        sum(out.square().mean() for out in outs).backward()
    optimizer.step()
    for key, value in model.state_dict().items():
        stage = int(key.split('.')[1]) if key.startswith('stages') else int(key[4])
        is_frozen = stage < frozen or (frozen == 0 and key.startswith('stages.0.downsample'))
        if is_frozen:
            assert torch.equal(value, before[key]), key
        elif 'running_mean' in key:
            assert not torch.equal(value, before[key]), key


def test_norm_eval_and_train_return_self():
    model = FasterNet('t0', norm_eval=True)
    assert model.train() is model and model.eval() is model
    norms = [m for m in model.train().modules() if isinstance(m, nn.BatchNorm2d)]
    assert model.training and norms and not any(m.training for m in norms)
    assert all(m.training for m in FasterNet('t0').train().modules())


@pytest.mark.parametrize('norm, kind', [('BN', nn.BatchNorm2d), ('SyncBN', nn.SyncBatchNorm), ('LN2d', LayerNorm2d)])
def test_norm_cfg(norm, kind):
    model = FasterNet('t0', norm_cfg=dict(type=norm))
    norms = [m for m in model.modules() if 'Norm' in type(m).__name__]
    assert len(norms) == 13 + 4 + 4 and all(isinstance(m, kind) for m in norms)


@pytest.mark.parametrize('norm', [None, 'BN', {}, dict(type=None)])
def test_what_is_no_norm_is_named(norm):
    with pytest.raises(ArgumentError, match=f'^norm_cfg must be the config of a norm layer, .*, got {norm!r}$'):
        FasterNet('t0', norm_cfg=norm)


def test_layer_norm_normalises_over_channels():
    norm = LayerNorm2d(6)
    nn.init.normal_(norm.weight)
    for kind in ('LN2d', 'mmfasternet.LN2d', LayerNorm2d):
        assert norm.eps == FasterNet('t0', norm_cfg=dict(type=kind)).norm0.eps == 1e-6
    x = torch.randn(2, 6, 3, 4)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), expected * norm.weight.view(1, -1, 1, 1))


def test_options_reach_the_blocks():
    model = FasterNet('t0', partial_ratio=1 / 2, mlp_ratio=3, layer_scale_init_value=1e-5, act_cfg=dict(type='ReLU'))
    block = model.stages[0].blocks[0]
    assert block.pconv.conv_channels == 20
    assert block.conv1.out_channels == 120
    assert block.layer_scale.weight.eq(1e-5).all()
    assert isinstance(block.act, nn.ReLU)
    assert FasterNet('t0', with_cp=True).stages[0].blocks[0].with_cp


def test_recomputation_gives_the_same_gradients():
    torch.manual_seed(1)
    plain, recomputed = FasterNet('t0'), FasterNet('t0', with_cp=True)
    recomputed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for model in (plain, recomputed):
        sum(out.square().mean() for out in model(x)).backward()
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for a, b in zip(plain.buffers(), recomputed.buffers()):
        torch.testing.assert_close(a, b)


def test_initialisation_is_a_normal_distribution_of_std_002():
    model = FasterNet('t1')
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 20000:
            assert abs(module.weight.std().item() - 0.02) < 0.001
            assert abs(module.weight.mean().item()) < 0.001
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all() and module.bias.eq(0).all()


def test_the_registry_finds_it_from_other_scopes():
    from mmdet.registry import MODELS as MMDET_MODELS
    from mmengine.registry import MODELS
    config = dict(type='mmfasternet.FasterNet', arch='t0')
    assert type(MODELS.build(config)) is type(MMDET_MODELS.build(config)) is FasterNet


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_cuda_equals_cpu():
    model = FasterNet('t0').eval()
    randomize_norms(model)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        outs = model.cuda()(x.cuda())
    for a, b in zip(outs, expected):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-3)
