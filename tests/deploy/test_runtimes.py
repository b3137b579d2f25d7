import builtins

import pytest
import torch

from mmfasternet.deploy.runtimes import OnnxRuntimeModel, OpenVinoModel, load_runtime
from mmfasternet.errors import UserError


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
    original = builtins.__import__

    def without(wanted, *args, **kwargs):
        if wanted == package:
            raise ImportError(wanted)
        return original(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(UserError, match=f'{package} is not installed: pip install'):
        load_runtime(tmp_path / name)
