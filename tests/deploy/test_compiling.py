import shutil

import pytest
import torch

from mmfasternet.deploy import DeployedBlock, compiling, to_deploy
from mmfasternet.deploy.compiling import check_compiler
from mmfasternet.deploy.gpu import triton_kernels
from mmfasternet.deploy.gpu.graphed_detector import record_detector
from mmfasternet.engine.building import build_model
from mmfasternet.engine.config import load_config
from mmfasternet.errors import ArgumentError, UserError
from mmfasternet.models import FasterNet
from tests.conftest import ROOT, SHAPES_CONFIG, build, randomize_norms
from tests.deploy.gpu.test_cuda_graphs import recorded  # noqa: F401, a fixture


@pytest.mark.slow
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_one_compilation_serves_all_sizes(dtype, tolerance):
    backbone = FasterNet(dict(embed_channels=16, depths=(1, 1)), out_indices=(0, 1))
    randomize_norms(backbone)
    backbone.eval()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = to_deploy(backbone, compile=True, dtype=dtype)
    with torch.no_grad():
        for size in ((64, 96), (96, 64), (80, 128), (72, 104)):
            x = torch.randn(1, 3, *size)
            before = x.clone()
            for actual, wanted in zip(compiled(x), backbone(x)):
                assert (actual.float() - wanted).norm() / wanted.norm() < tolerance
            assert torch.equal(x, before)
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] <= 2  # for lying and for standing images


@pytest.mark.slow
def test_a_compiled_detector_gives_the_same_maps_and_scores(trained):
    model = build_model(load_config(str(SHAPES_CONFIG)), str(trained / 'epoch_2.pth'))
    compiled = to_deploy(model, compile=True)
    assert all(part._compiled_call_impl is not None for part in (compiled.backbone, compiled.neck, compiled.rpn_head))
    assert compiled.roi_head._compiled_call_impl is None and model.backbone._compiled_call_impl is None
    x = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        expected, actual = model.extract_feat(x), compiled.extract_feat(x)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(compiled.rpn_head(actual), model.rpn_head(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_images_are_padded_to_the_sizes_compiled_for():
    backbone = FasterNet(dict(embed_channels=16, depths=(1, )), out_indices=0).eval()
    compiled = to_deploy(backbone, compile=True, sizes=[(64, 96), (96, 64)])
    with torch.no_grad():
        for size, padded in (((60, 90), (64, 96)), ((90, 40), (96, 64)), ((64, 64), (64, 96)), ((100, 40), (100, 40))):
            x = torch.randn(1, 3, *size)
            expected = backbone(torch.nn.functional.pad(x, (0, padded[1] - size[1], 0, padded[0] - size[0])))
            torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiling_again_takes_new_sizes_and_none_takes_the_padding_away():
    backbone = FasterNet(dict(embed_channels=16, depths=(1, )), out_indices=0).eval()
    x = torch.randn(1, 3, 60, 60)
    with torch.no_grad():
        first = to_deploy(backbone, compile=True, sizes=[(64, 64)])
        assert first(x)[0].shape[-2:] == (16, 16)
        assert to_deploy(first, compile=True, sizes=[(96, 96)])(x)[0].shape[-2:] == (24, 24)
        plain = to_deploy(first, inplace=True)
        assert plain is first and plain._compiled_call_impl is None and plain(x)[0].shape[-2:] == (15, 15)


@pytest.mark.slow
def test_what_is_recorded_is_compiled_for_its_sizes_first(monkeypatch, recorded):  # noqa: F811
    """On a GPU; here only what is set up for it."""
    compiled = []
    monkeypatch.setattr(torch.nn.Module, 'compile', lambda self, **how: compiled.append(how))
    detector = to_deploy(build(load_config(str(SHAPES_CONFIG)).model), compile=True, sizes=[(64, 96)])
    assert compiled == [dict(dynamic=False, options={'freezing': True})] * 3  # backbone, neck and RPN head
    record_detector(detector, [(64, 96)])
    assert detector.extract_feat(torch.rand(1, 3, 60, 90))[0].shape[2:] == (16, 24) and len(recorded) == 2
    compiling.remove_compilation(detector)
    assert detector.extract_feat(torch.rand(1, 3, 64, 64))[0].shape[2:] == (16, 16) and len(recorded) == 2


def test_a_classifier_is_not_padded():
    model = build(load_config(str(ROOT / 'configs' / 'fasternet_t0_digits.py')).model, 'mmpretrain')
    with pytest.raises(ArgumentError, match='include the padding in its pooling'):
        to_deploy(model, inplace=True, compile=True, sizes=[(96, 96)])
    assert not any(isinstance(module, DeployedBlock) for module in model.modules())


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    with pytest.raises(UserError, match='C\\+\\+ compiler'):
        to_deploy(FasterNet('t0'), compile=True)
    if triton_kernels.triton is not None:
        with pytest.raises(UserError, match='for a GPU needs a C compiler, and there is none: install it'):
            check_compiler('cuda')
    monkeypatch.setattr(triton_kernels, 'triton', None)
    with pytest.raises(UserError, match='for a GPU needs Triton, and there is none: install it'):
        check_compiler('cuda')


@pytest.mark.parametrize('cc, there, lacks', [(None, 'gcc', None), (None, 'clang', None), (None, 'cc', 'a C compiler'),
                                              ('mine', 'mine', None), ('mine', 'gcc', 'a C compiler')])
def test_tritons_compiler(cc, there, lacks, monkeypatch):
    monkeypatch.setattr(triton_kernels, 'triton', object())
    monkeypatch.setattr(shutil, 'which', lambda name: name if name == there else None)
    monkeypatch.delenv('CC', raising=False)
    if cc:
        monkeypatch.setenv('CC', cc)
    assert triton_kernels.missing() == lacks
