import pytest
import torch

from mmfasternet.deploy import DeployedBlock, to_deploy
from mmfasternet.deploy.deployed_block import ALGORITHMS
from mmfasternet.models import FasterNet, FasterNetBlock
from tests.conftest import randomize_norms

BN, RELU = dict(type='BN'), dict(type='ReLU', inplace=True)
FORMATS = [torch.channels_last, torch.contiguous_format]


def difference(actual, expected):
    """Norm of the difference over the norm of what is expected, the largest of some tensors."""
    return max(((x.float() - y).norm() / y.norm()).item() for x, y in zip(actual, expected))


def make_backbone(arch, **options):
    backbone = FasterNet(arch, **options)
    randomize_norms(backbone)
    return backbone.eval()


@pytest.mark.parametrize('arch', list(FasterNet.arch_settings))
def test_every_form_of_every_variant_is_exact(arch):
    backbone = make_backbone(arch)
    x = torch.randn(2, 3, 64, 96)
    before = x.clone()
    with torch.no_grad():
        expected = backbone(x)
        for algorithm in ALGORITHMS:
            for memory_format in FORMATS:
                deployed = to_deploy(backbone, algorithm=algorithm, memory_format=memory_format)
                assert {m.algorithm for m in deployed.modules() if isinstance(m, DeployedBlock)} == {algorithm}
                outputs = deployed(x)
                for actual, wanted in zip(outputs, expected):
                    torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
                assert difference(outputs, expected) < 1e-5
                assert torch.equal(x, before)
            half = to_deploy(backbone, algorithm=algorithm, dtype=torch.bfloat16)(x)
            assert half[0].dtype == torch.bfloat16 and 1e-4 < difference(half, expected) < 1e-2
            assert torch.equal(x, before)


def test_float16_is_closer_than_bfloat16():
    backbone, x = make_backbone('t0'), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone(x)
        assert difference(to_deploy(backbone, dtype=torch.float16)(x), expected) < 2e-3


@pytest.mark.parametrize('algorithm', ALGORITHMS)
@pytest.mark.parametrize('options', [
    dict(norm_cfg=dict(type='LN2d')),
    dict(norm_cfg=dict(type='GN', num_groups=4)),
    dict(layer_scale_init_value=0.3),
    dict(partial_ratio=0.5),
    dict(partial_ratio=1.),
    dict(act_cfg=dict(type='PReLU', num_parameters=96)),
    dict(act_cfg=dict(type='SiLU')),
    dict(pconv_mode='slicing'),
], ids=str)
def test_options_of_the_block(algorithm, options):
    block = FasterNetBlock(48, **{**dict(norm_cfg=BN, act_cfg=RELU), **options})
    randomize_norms(block)
    block.eval().requires_grad_(False)
    for memory_format in FORMATS:
        x = torch.randn(2, 48, 6, 5).contiguous(memory_format=memory_format)
        before = x.clone()
        deployed = DeployedBlock(block, algorithm)
        torch.testing.assert_close(deployed(x), block(x), rtol=1e-5, atol=1e-5)
        assert torch.equal(x, before)


def test_a_block_writes_only_into_an_input_it_owns():
    block = FasterNetBlock(16, BN, RELU).eval().requires_grad_(False)
    for memory_format in FORMATS:
        x = torch.randn(1, 16, 4, 4).contiguous(memory_format=memory_format)
        expected, before = block(x), x.clone()
        kept = DeployedBlock(block, 'matmul')(x)
        assert torch.equal(x, before)
        owned = DeployedBlock(block, 'matmul', owns_input=True)(x)
        torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(owned, expected, rtol=1e-5, atol=1e-5)
        assert owned.data_ptr() == x.data_ptr()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('owns_input', [False, True])
def test_matrix_products_copy_the_convolutions_input_only(dtype, owns_input):
    """A copy of a map is a clone; a product that does not own the map it adds to begins with a copy of that."""
    block = FasterNetBlock(64, BN, RELU).eval().requires_grad_(False)
    deployed = DeployedBlock(block, 'matmul', owns_input).to(dtype, memory_format=torch.channels_last)
    x = torch.randn(1, 64, 8, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    deployed(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        deployed(x)
    events = list(profile.events())
    assert [event.input_shapes[0] for event in events if event.name == 'aten::clone'] == [[1, 16, 8, 8]]
    copied = [event.input_shapes[0] for event in events if event.name == 'aten::copy_']
    # The other one is the folded bias, which the first product adds to.
    assert sorted(copied) == sorted([[1, 16, 8, 8], [64, 128], *[[64, 64]] * (not owns_input)])


@pytest.mark.parametrize('algorithm', ALGORITHMS)
@pytest.mark.parametrize('shape', [(1, 16, 1, 1), (3, 16, 1, 7), (2, 16, 5, 1)])
def test_maps_of_one_row_column_or_position(algorithm, shape):
    block = FasterNetBlock(16, BN, RELU).eval().requires_grad_(False)
    x = torch.randn(shape)
    torch.testing.assert_close(DeployedBlock(block, algorithm)(x), block(x), rtol=1e-5, atol=1e-5)
    strided = torch.randn(shape[0], 32, *shape[2:])[:, ::2]
    torch.testing.assert_close(DeployedBlock(block, algorithm)(strided), block(strided), rtol=1e-5, atol=1e-5)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="'magic'"):
        DeployedBlock(FasterNetBlock(16, BN, RELU), 'magic')
