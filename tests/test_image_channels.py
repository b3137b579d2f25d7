"""Images of one channel, or of many: trained on, tested, exported, counted and measured as those of three."""

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmfasternet.benchmark.complexity import count_as_table_4, count_complexity
from mmfasternet.benchmark.roofline import least_times
from mmfasternet.benchmark.subjects.detectors import DetectorInput, detector_entry
from mmfasternet.benchmark.subjects.forms import measure_forms
from mmfasternet.benchmark.subjects.training_steps import training_entry
from mmfasternet.deploy.dense import image_channels
from mmfasternet.deploy.export.exporting import export_model
from mmfasternet.deploy.export.runtimes import load_runtime
from mmfasternet.engine.building import build_model, real_images
from mmfasternet.engine.config import load_config
from mmfasternet.engine.run_options import TestOptions as TestingOptions
from mmfasternet.engine.speedups import SpeedUps
from mmfasternet.engine.train_test import test as run_test
from mmfasternet.engine.train_test import train
from tests.conftest import ROOT, SHAPES_CONFIG, data_options, needs_export

CPU = torch.device('cpu')
T0 = str(ROOT / 'configs' / 'fasternet_t0_in1k.py')
EMBEDDING = 40 * 4 * 4  # weights of T0's first convolution for each channel of the image


@pytest.fixture
def grey(shapes, tmp_path):
    """The shapes' config for grey images, as docs/own_data.md says."""
    options = dict(option.split('=', 1) for option in data_options(shapes))
    cfg = load_config(str(SHAPES_CONFIG), options, str(tmp_path / 'work'))
    cfg.model.backbone.in_channels = 1
    cfg.model.data_preprocessor.update(mean=[120.], std=[60.], bgr_to_rgb=False)
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.pipeline[0].color_type = 'grayscale'
    return cfg


def with_channels(channels):
    """T0's classifier for images of some channels; without normalisation, which knows one or three."""
    cfg = load_config(T0)
    cfg.model.backbone.in_channels = channels
    cfg.data_preprocessor = dict(type='ClsDataPreprocessor', num_classes=1000, to_rgb=False)
    return cfg


@pytest.mark.slow
def test_grey_images_are_trained_on_and_tested(grey, tmp_path):
    grey.merge_from_dict({'train_dataloader.batch_size': 4, 'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1})
    train(grey)
    checkpoint = str(tmp_path / 'work' / 'epoch_1.pth')
    metrics = run_test(grey, TestingOptions(checkpoint, tta=True))
    assert np.isfinite(metrics['coco/bbox_mAP'])
    images = real_images(grey, build_model(grey, checkpoint))
    assert [image.shape for image in images] == [(1, 1, 160, 160)] * 4


@pytest.mark.slow
@needs_export
@pytest.mark.parametrize('options', [{}, dict(parts=True), dict(end_to_end=True)], ids=str)
def test_a_detector_is_exported(grey, tmp_path, options):
    model = build_model(grey)
    assert image_channels(model) == image_channels(model.backbone) == 1
    report = export_model(model, str(tmp_path / 'out'), **options)[0]
    assert report.relative <= 1e-4
    outputs = load_runtime(report.file)(torch.rand(1, 1, 64, 64))
    assert len(outputs) > 2
    with pytest.raises(Exception, match='images'):
        load_runtime(report.file)(torch.rand(1, 3, 64, 64))


@pytest.mark.slow
@needs_export
def test_a_classifier_and_a_backbone_are_exported(tmp_path):
    model = build_model(with_channels(5))
    for name, each in (('classifier', model), ('backbone', model.backbone)):
        report, = export_model(each, str(tmp_path / name))
        assert report.relative <= 1e-4 and len(load_runtime(report.file)(torch.rand(2, 5, 64, 64))[0]) == 2


@pytest.mark.parametrize('channels', [1, 5])
def test_counts_differ_by_the_first_convolution(channels):
    def total(channels):
        return count_complexity(with_channels(channels), (224, 224))[-1]

    assert total(channels).parameters - total(3).parameters == (channels - 3) * EMBEDDING
    assert total(channels).multiply_adds - total(3).multiply_adds == (channels - 3) * EMBEDDING * 56 * 56


def test_counts_and_least_times_of_a_detector(grey):
    plain = Config(grey.to_dict())
    plain.model.backbone.in_channels = 3
    size = (64, 96)
    fewer = 2 * EMBEDDING * 16 * 24
    assert count_as_table_4(plain, size).multiply_adds - count_as_table_4(grey, size).multiply_adds == fewer
    seconds = [least_times(cfg, size, torch.float32, 1, float('inf'))['backbone'] for cfg in (plain, grey)]
    assert seconds[0] - seconds[1] == pytest.approx(2 * fewer / 1e9, rel=1e-6)  # milliseconds at 10^12 a second


def test_detectors_are_measured(grey):
    entries = [detector_entry(grey, 'grey', CPU, DetectorInput((64, 64))),
               training_entry(grey, 'grey', CPU, SpeedUps(), (64, 64), 1)]
    seen = []
    for entry in entries:
        with torch.no_grad() if entry is entries[0] else torch.enable_grad():
            seen.append(entry.build().function())
    assert len(seen[0]) == 1


@pytest.mark.slow
def test_forms_of_a_backbone_are_measured():
    records = measure_forms(with_channels(2), 'two', CPU, size=(32, 32), dtypes=[torch.float32], compile=False,
                            rounds=1)
    assert len(records) > 3 and all(record.error is None for record in records)
