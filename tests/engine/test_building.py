import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets.transforms import LoadAnnotations
from mmengine.runner import Runner

from mmfasternet.benchmark.complexity import build_for_counting
from mmfasternet.benchmark.subjects import training_steps
from mmfasternet.compat import det_inferencer
from mmfasternet.deploy.export import exporting
from mmfasternet.deploy.export.exported_detector import ExportedDetector
from mmfasternet.engine.building import build_model, calibration_batches, load_batches, real_images
from mmfasternet.engine.config import load_config, model_of
from mmfasternet.engine.deploying import padded_size
from mmfasternet.engine.speedups import SpeedUps
from mmfasternet.errors import UserError
from tests.conftest import ROOT, SHAPES_CONFIG, data_options, needs_export

ON_GPU = torch.cuda.is_available()  # where MMEngine's runner is then
BGR = 10, 100, 200
OWN = dict(type='ClsDataPreprocessor', mean=[1., 2., 3.], std=[10., 20., 30.], to_rgb=True)
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])  # of the config, beside its model
CASES = {  # what the model's own config says, and a pixel of the images then
    'beside the model': ({}, (np.array(BGR[::-1]) - MEAN) / STD),
    "the model's own": (dict(data_preprocessor=OWN), (np.array(BGR[::-1]) - [1, 2, 3]) / [10, 20, 30]),
    'none': (dict(data_preprocessor=None), np.array(BGR, float)),
}


@pytest.fixture
def folder(tmp_path):
    """Of one image in one colour."""
    (tmp_path / 'images').mkdir()
    cv2.imwrite(str(tmp_path / 'images' / 'a.png'), np.full((32, 32, 3), BGR, np.uint8))
    return tmp_path / 'images'


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    """A classifier's config with a preprocessor beside its model, and a pixel of its images."""
    model, pixel = CASES[request.param]
    cfg = load_config(str(ROOT / 'configs' / 'fasternet_t0_in1k.py'), work_dir=str(tmp_path / 'work'))
    cfg.model.update(model)
    return cfg, pixel


def assert_is(pixel, image):
    assert image.shape == (1, 3, 224, 224)
    expected = torch.tensor(pixel, dtype=torch.float32)[None, :, None, None].expand(image.shape)
    torch.testing.assert_close(image.float(), expected, rtol=1e-5, atol=1e-5)


def test_images_are_those_of_mmengines_runner(case, folder):
    cfg, pixel = case
    image, = real_images(cfg, build_model(cfg), str(folder))
    assert_is(pixel, image)
    batch, = load_batches(cfg, [str(folder / 'a.png')])
    expected = Runner.from_cfg(cfg).model.data_preprocessor(batch)['inputs'].cpu()
    torch.testing.assert_close(image, expected, **dict(rtol=1e-6, atol=1e-6) if ON_GPU else dict(rtol=0, atol=0))
    assert cfg.get('data_preprocessor').mean == MEAN.tolist()  # the config stays as it is


@pytest.mark.slow
@needs_export
def test_an_export_is_checked_on_such_images(folder, tmp_path, run_tool, monkeypatch):
    config = ROOT / 'configs' / 'fasternet_t0_in1k.py'
    torch.save(build_model(load_config(str(config))).state_dict(), tmp_path / 'a.pth')
    checked = []
    monkeypatch.setattr(exporting, 'export_model', lambda *args: checked.extend(args[5]) or [])
    result = run_tool('export', config, tmp_path / 'a.pth', '--images', folder, '--out', tmp_path / 'out')
    assert result.code == 0, result.err
    image, = checked
    assert_is(CASES['beside the model'][1], image)


@pytest.fixture
def detector_config(shapes):
    """A detector's config whose preprocessor stands beside the model."""
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.data_preprocessor = dict(cfg.model.pop('data_preprocessor'), mean=[1., 2., 3.], pad_size_divisor=48)
    return cfg


@pytest.mark.slow
@needs_export
def test_all_that_builds_a_detector_takes_it_from_beside_the_model(detector_config, tmp_path, monkeypatch):
    cfg = detector_config
    models = [build_model(cfg), build_for_counting(cfg), Runner.from_cfg(cfg).model]
    torch.save(dict(state_dict=models[0].state_dict()), tmp_path / 'a.pth')
    built = []
    monkeypatch.setattr(training_steps, '_step', lambda model, *args: built.append(model))
    training_steps.training_entry(cfg, 'a', torch.device('cpu'), SpeedUps(), (64, 64), 1).build().function()
    models += built
    exporting.export_model(models[0], str(tmp_path / 'onnx'), parts=True, model_cfg=cfg.model)
    models.append(ExportedDetector(model_of(cfg), tmp_path / 'onnx'))
    models.append(ExportedDetector(cfg.model, tmp_path / 'onnx', data_preprocessor=cfg.data_preprocessor))
    models.append(ExportedDetector(cfg.model, tmp_path / 'onnx').detector)  # nobody says
    means = [getattr(model.data_preprocessor, 'mean', torch.zeros(3)).flatten().tolist() for model in models]
    assert means == [[1, 2, 3]] * 6 + [[0, 0, 0]]
    assert padded_size((40, 60), cfg) == (48, 96)


def test_predictions_take_it_from_beside_the_model(detector_config, tmp_path, folder, monkeypatch):
    from mmfasternet.engine import inference, predictors
    torch.save(dict(state_dict=build_model(detector_config).state_dict()), tmp_path / 'a.pth')
    inferencers = []

    def keep(*args):
        inferencers.append(det_inferencer(*args))
        return inferencers[0]

    monkeypatch.setattr(predictors, 'det_inferencer', keep)
    inference.predict(detector_config, str(tmp_path / 'a.pth'), [str(folder / 'a.png')], str(tmp_path / 'out'), 'cpu')
    assert inferencers[0].model.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]
    assert 'data_preprocessor' not in detector_config.model


@pytest.mark.parametrize('kind', ['LoadAnnotations', 'mmdet.LoadAnnotations', 'mmcv.LoadAnnotations',
                                  'LoadPanopticAnnotations', LoadAnnotations])
def test_annotations_are_not_loaded_by_whatever_name(folder, kind):
    cfg = load_config(str(SHAPES_CONFIG))
    steps = cfg.test_dataloader.dataset.pipeline
    steps[:] = [step for step in steps if step.type != 'LoadAnnotations']
    expected, = load_batches(cfg, [str(folder / 'a.png')])
    steps.insert(1, dict(type=kind))
    batch, = load_batches(cfg, [str(folder / 'a.png')])
    assert torch.equal(batch['inputs'][0], expected['inputs'][0])
    assert 'gt_instances' not in batch['data_samples'][0] or not len(batch['data_samples'][0].gt_instances)


def test_batches_of_training_data_are_spread_over_them_and_read_as_in_training(shapes):
    cfg = load_config(str(SHAPES_CONFIG), dict(option.split('=', 1) for option in data_options(shapes)))
    few, more = calibration_batches(cfg, None, 2), calibration_batches(cfg, None, 10 ** 6)
    names = [[Path(batch['data_samples'][0].img_path).name for batch in batches] for batches in (few, more)]
    assert len(few) == 2 and names[0] == [names[1][0], names[1][len(more) // 2]]
    assert len(set(names[1])) == len(more) == len(list((shapes / 'train').iterdir()))
    assert [len(list(few)), len(list(few))] == [2, 2]  # as often as one likes
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[cfg.train_dataloader.dataset])
    with pytest.raises(UserError, match='several datasets .ConcatDataset.: give a folder of images with --calibration'):
        calibration_batches(cfg, None, 2)


def test_images_for_a_config_whose_data_set_holds_arrays(shapes):
    cfg = load_config(str(ROOT / 'configs' / 'fasternet_t0_digits.py'))
    batches = calibration_batches(cfg, str(shapes / 'train'), 3)
    assert len(batches) == 3 and [batch['inputs'][0].shape for batch in batches] == [(3, 64, 64)] * 3


@pytest.mark.slow
@needs_export
def test_a_copy_of_a_model_with_files_runs_the_same_files(tmp_path, shapes):
    """As MMEngine's EMAHook copies it."""
    cfg = load_config(str(SHAPES_CONFIG), dict(option.split('=', 1) for option in data_options(shapes)))
    model = build_model(cfg)
    for file_format in ('onnx', 'openvino'):
        exporting.export_model(model, str(tmp_path / file_format), file_format, parts=True, model_cfg=cfg.model)
        exported = ExportedDetector(cfg.model, tmp_path / file_format)
        copied = copy.deepcopy(exported)
        assert copied.detector.backbone is not exported.detector.backbone
        assert copied.detector.backbone.run is not None
        batch = next(iter(calibration_batches(cfg, None, 1)))
        with torch.no_grad():
            assert torch.equal(copied.test_step(batch)[0].pred_instances.scores,
                               exported.test_step(batch)[0].pred_instances.scores)
