import copy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mmfasternet.deploy.export.exporting import export_model
from mmfasternet.deploy.export.runtimes import OnnxRuntimeModel, OpenVinoModel, load_runtime
from mmfasternet.errors import UserError
from mmfasternet.models import FasterNet
from tests.conftest import needs_export


def test_onnx_runtime_has_no_half_precision(tmp_path):
    with pytest.raises(UserError, match='float32'):
        load_runtime(tmp_path / 'model.onnx', torch.bfloat16)


def test_openvino_refuses_a_type_that_the_processor_does_not_know(tmp_path, monkeypatch):
    monkeypatch.setattr(OpenVinoModel, 'knows', staticmethod(lambda dtype: False))
    with pytest.raises(UserError, match='torch.bfloat16 on this processor'):
        load_runtime(tmp_path / 'model.xml', torch.bfloat16)


@pytest.mark.parametrize('kind, name', [(OnnxRuntimeModel, 'model.onnx'), (OpenVinoModel, 'model.xml')])
def test_a_broken_file_is_named_in_one_line(tmp_path, kind, name):
    (tmp_path / name).write_text('not a model')
    with pytest.raises(UserError, match=name) as caught:
        kind(tmp_path / name)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('package, name', [('onnxruntime', 'model.onnx'), ('openvino', 'model.xml')])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, name):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f'{package} is not installed: pip install'):
        load_runtime(tmp_path / name)


SIGNAL = """
import gc, signal, subprocess, sys
import openvino
from mmfasternet.deploy.export.runtimes import OpenVinoModel
x = openvino.opset13.parameter([1, 4], openvino.Type.f32)
openvino.save_model(openvino.Model([openvino.opset13.relu(x)], [x]), sys.argv[1])
first, second = OpenVinoModel(sys.argv[1]), OpenVinoModel(sys.argv[1])
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGCHLD, lambda *received: print('child ended'))
subprocess.run(['true'])
"""


@pytest.mark.slow
def test_signals_arrive_after_openvino_went(tmp_path):
    """As a data loader's workers send them: with a core for each model this process died of a segmentation fault."""
    result = subprocess.run([sys.executable, '-c', SIGNAL, tmp_path / 'model.xml'], capture_output=True, text=True)
    assert result.returncode == 0 and 'child ended' in result.stdout


@needs_export
@pytest.mark.parametrize('file_format', ['onnx', 'openvino'])
def test_copies_in_threads_do_not_share_results(tmp_path, file_format):
    backbone = FasterNet('t0').eval()
    report, = export_model(backbone, str(tmp_path / 'out'), file_format)
    runtime = load_runtime(report.file)

    def differences(seed):
        own, image = copy.deepcopy(runtime), torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            expected = backbone(image)
        return max((a - b).abs().max().item() for _ in range(30) for a, b in zip(own(image), expected))

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(differences, range(4))) < 1e-3
