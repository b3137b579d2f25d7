import copy

import pytest
from mmengine.logging import MMLogger

from mmfasternet.deploy.export.exporting import export_model
from mmfasternet.deploy.export.manifest import Manifest
from mmfasternet.deploy.export.runtimes import load_runtime
from mmfasternet.engine.building import build_model
from mmfasternet.engine.config import load_config
from mmfasternet.engine.exported_accuracy import accuracy_of
from mmfasternet.engine.run_options import TestOptions
from mmfasternet.engine.train_test import test as evaluate_checkpoint
from mmfasternet.errors import UserError
from tests.conftest import SHAPES_CONFIG, data_options, needs_export

pytestmark = needs_export


@pytest.fixture(scope='module')
def cfg(shapes):
    return load_config(str(SHAPES_CONFIG), dict(option.split('=', 1) for option in data_options(shapes)))


@pytest.fixture(scope='module')
def detector(cfg, trained):
    return build_model(cfg, str(trained / 'epoch_2.pth'))


@pytest.mark.slow
@pytest.mark.parametrize('file_format, parts', [('onnx', False), ('openvino', True)])
def test_files_of_float32_have_the_checkpoints_accuracy(cfg, detector, trained, tmp_path, capsys, file_format, parts):
    cfg = copy.deepcopy(cfg)
    cfg.work_dir = str(tmp_path / 'work')
    expected = evaluate_checkpoint(cfg, TestOptions(str(trained / 'epoch_2.pth')))
    capsys.readouterr()
    before, weights = cfg.to_dict(), {name: value.clone() for name, value in detector.state_dict().items()}
    export_model(detector, str(tmp_path / 'out'), file_format, parts)
    entries = Manifest.read(tmp_path / 'out').parts
    runs = [load_runtime(tmp_path / 'out' / part.file) for part in entries]
    writing = copy.deepcopy(cfg)
    writing.custom_hooks = [dict(type='EMAHook')]  # which copies the model
    writing.val_evaluator.outfile_prefix = str(tmp_path / 'results')
    loggers = dict(MMLogger._instance_dict)
    evaluate = accuracy_of(writing, detector)
    for _ in range(2):  # what the first one made is gone
        found = evaluate(entries, runs)
        assert found.keys() == {'coco/bbox_mAP', 'coco/segm_mAP'}
        for name, value in found.items():
            assert abs(value - expected[name]) <= 0.001
    assert not list(tmp_path.glob('results*')) and MMLogger._instance_dict == loggers
    assert cfg.to_dict() == before and 'Average Precision' not in capsys.readouterr().out
    assert all((detector.state_dict()[name] == value).all() for name, value in weights.items())


def test_a_config_without_data_or_with_other_metrics(cfg, detector):
    without = copy.deepcopy(cfg)
    without.val_dataloader = without.test_dataloader = None
    with pytest.raises(UserError, match='has no val_dataloader.*--no-accuracy'):
        accuracy_of(without, detector)
    other = copy.deepcopy(cfg)
    other.val_evaluator.metric = 'proposal'
    with pytest.raises(UserError, match='gives .*AR.*, but none of bbox_mAP, .*--no-accuracy'):
        accuracy_of(other, detector)([], [])
