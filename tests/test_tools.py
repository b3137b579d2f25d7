"""Every script and every flag of it, run."""

import csv
import importlib.util
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import timm
import torch
from mmengine.config import Config
from safetensors.torch import save_file
from torchvision.models import resnet50

from mmfasternet.benchmark.harness import suite
from mmfasternet.benchmark.harness.records import RECORDS, read_records
from mmfasternet.benchmark.subjects import partial_conv
from mmfasternet.checkpoints import TARGETS, convert, read_checkpoint
from mmfasternet.deploy.export.manifest import Manifest
from mmfasternet.engine.config import load_config
from mmfasternet.engine.speedups import SpeedUps
from mmfasternet.models import FasterNet
from tests.checkpoints.hostile import Call
from tests.conftest import (
    ROOT,
    SHAPES_CONFIG,
    build,
    data_options,
    environment,
    free_port,
    needs_export,
    needs_nncf,
    randomize_norms,
)
from tests.datasets.test_nuclei import make_folder
from tests.official import official_classifier

TOOLS = ROOT / 'tools'
# As little work as a training run can be.
QUICK = ['train_dataloader.batch_size=4', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'param_scheduler=[]',
         'default_hooks.logger.interval=1', 'model.test_cfg.rcnn.max_per_img=5']


def weights(trained):
    return trained / 'epoch_2.pth'


def load(checkpoint):
    return read_checkpoint(str(checkpoint))


def log_text(work_dir):
    return '\n'.join(path.read_text() for path in sorted(work_dir.glob('*/*.log')))


@pytest.mark.parametrize('script', sorted(p.name for p in TOOLS.glob('*.py') if p.stem != 'build_mmcv'))  # set-up's
def test_help_shows_an_example_that_names_the_script(script):
    result = subprocess.run([sys.executable, f'tools/{script}', '--help'], capture_output=True, text=True, check=True,
                            cwd=ROOT, env=environment(COLUMNS='200'))
    assert re.search(rf'[Ee]xample:\s+python3? tools/{script}', result.stdout)


def test_examples_name_the_checkpoint_that_the_demo_leaves():
    last = Config.fromfile(SHAPES_CONFIG).train_cfg.max_epochs
    named = {number for path in (ROOT / 'mmfasternet' / 'cli').rglob('*.py')
             for number in re.findall(r'work_dirs/demo/epoch_(\d+)', path.read_text())}
    assert named == {str(last)}


@pytest.mark.parametrize('script', sorted(p.name for p in TOOLS.glob('*.sh')))
def test_shell_scripts_parse_and_ask_for_their_arguments(script):
    subprocess.run(['bash', '-n', TOOLS / script], check=True)
    result = subprocess.run(['bash', TOOLS / script], capture_output=True, text=True)
    assert result.returncode and f'usage: tools/{script}' in result.stderr


def test_make_shapes_coco(run_tool, tmp_path):
    arguments = ['--num-train', 2, '--num-val', 1, '--size', 64, '--seed']
    assert run_tool('make_shapes_coco', tmp_path / 'a', *arguments, 1).code == 0
    assert run_tool('make_shapes_coco', tmp_path / 'b', *arguments, 2).code == 0
    assert len(list((tmp_path / 'a' / 'train').iterdir())) == 2
    assert len(list((tmp_path / 'a' / 'val').iterdir())) == 1
    assert cv2.imread(str(tmp_path / 'a' / 'train' / '000000.png')).shape == (64, 64, 3)
    assert (tmp_path / 'a' / 'annotations' / 'instances_val.json').read_text() != \
        (tmp_path / 'b' / 'annotations' / 'instances_val.json').read_text()
    again = run_tool('make_shapes_coco', tmp_path / 'a')
    assert again.code == 1 and again.err.startswith('error: ') and again.err.count('\n') == 1


def test_make_nuclei_coco(run_tool, tmp_path):
    source = tmp_path / 'stage1_train'
    for number in range(24):
        make_folder(source, f'{number:02}', number)
    result = run_tool('make_nuclei_coco', source, tmp_path / 'a')
    assert result.code == 0, result.err
    train, val = (json.loads((tmp_path / 'a' / f'{split}.json').read_text()) for split in ('train', 'val'))
    line = f"{tmp_path}/a/train.json: {len(train['images'])} images, {len(train['annotations'])} objects; "
    assert line in result.out
    assert len(train['images']) + len(val['images']) == 24

    make_folder(source, 'large', 1, size=(50, 40))
    (source / 'bad' / 'images').mkdir(parents=True)
    result = run_tool('make_nuclei_coco', source, tmp_path / 'b', '--max-size', 40, '--val-share', 0.5,
                      '--segmentation', 'rle')
    assert result.code == 3 and '1 images over 40 px were skipped' in result.out and 'run-length' in result.out
    lines = result.err.splitlines()
    assert len(lines) == 2 and lines[0].startswith('warning: bad is skipped: ') and lines[1].startswith('warning: 1 ')
    assert len(json.loads((tmp_path / 'b' / 'val.json').read_text())['images']) > len(val['images'])
    again = run_tool('make_nuclei_coco', source, tmp_path / 'a')
    assert again.code == 1 and again.err.startswith('error: ') and again.err.count('\n') == 1


def test_train_writes_a_checkpoint_and_evaluates(run_tool, shapes, tmp_path):
    result = run_tool('train', SHAPES_CONFIG, '--work-dir', tmp_path, '--cfg-options', *data_options(shapes), *QUICK)
    assert result.code == 0, result.err
    assert (tmp_path / 'epoch_1.pth').is_file()
    log = log_text(tmp_path)
    assert 'loss_mask' in log and 'coco/bbox_mAP' in log and 'coco/segm_mAP' in log


@pytest.mark.parametrize('how', ['newest', 'path'])
def test_train_resumes(run_tool, trained, shapes, tmp_path, how):
    shutil.copytree(trained, tmp_path / 'run')
    resume = ['--resume'] if how == 'newest' else ['--resume', trained / 'epoch_1.pth']
    result = run_tool('train', SHAPES_CONFIG, '--work-dir', tmp_path / 'run', *resume, '--cfg-options',
                      *data_options(shapes), *QUICK, 'train_cfg.max_epochs=3', 'val_cfg=None', 'val_dataloader=None',
                      'val_evaluator=None')
    assert result.code == 0, result.err
    content = load(tmp_path / 'run' / 'epoch_3.pth')
    assert content['meta']['iter'] == 6
    assert f'resumed epoch: {2 if how == "newest" else 1}, iter: {4 if how == "newest" else 2}' in log_text(
        tmp_path / 'run')


def test_auto_scale_lr_scales(run_tool, shapes, tmp_path):
    for flags in ([], ['--auto-scale-lr']):
        folder = tmp_path / str(len(flags))
        run_tool('train', SHAPES_CONFIG, '--work-dir', folder, *flags, '--cfg-options', *data_options(shapes), *QUICK,
                 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None', 'auto_scale_lr.base_batch_size=8')
        content = load(folder / 'epoch_1.pth')
        rate = content['optimizer']['param_groups'][0]['lr']
        assert rate == pytest.approx(3e-3 / (2 if flags else 1))


def test_skip_nan_reaches_the_training(run_tool, monkeypatch):
    given = []
    monkeypatch.setattr('mmfasternet.engine.train_test.train', lambda cfg, options: given.append(options.skip_nan))
    for flags in ([], ['--skip-nan']):
        assert run_tool('train', SHAPES_CONFIG, *flags).code == 0
    assert given == [False, True]


def test_amp_without_a_gpu_is_one_line(run_tool, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    for words in ([SHAPES_CONFIG, '--amp'], ['--amp', SHAPES_CONFIG]):  # the config is no type
        result = run_tool('train', *words)
        assert result.code == 1 and result.err.startswith('error: --amp needs a GPU') and result.err.count('\n') == 1


@pytest.mark.parametrize('flags, amp', [([], None), (['--amp'], 'float16'), (['--amp', 'float16'], 'float16'),
                                        (['--amp', 'bfloat16'], 'bfloat16')])
def test_amp_reaches_the_training(run_tool, monkeypatch, flags, amp):
    given = []
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: False)
    monkeypatch.setattr('mmfasternet.engine.train_test.train',
                        lambda cfg, options: given.append(options.speed_ups.amp))
    assert run_tool('train', SHAPES_CONFIG, *flags).code == 0 and given == [amp]
    assert run_tool('train', SHAPES_CONFIG, '--amp', 'float8').code == 2


def test_test_prints_ap_and_writes_what_it_is_asked_for(run_tool, trained, shapes, tmp_path):
    result = run_tool('test', SHAPES_CONFIG, weights(trained), '--work-dir', tmp_path / 'work', '--out',
                      tmp_path / 'raw.pkl', '--show-dir', tmp_path / 'shown', '--cfg-options', *data_options(shapes),
                      'model.test_cfg.rcnn.score_thr=0.0')
    assert result.code == 0, result.err
    assert re.search(r'│ box +│', result.out) and re.search(r'│ mask +│', result.out)
    predictions = pickle.loads((tmp_path / 'raw.pkl').read_bytes())
    assert len(predictions) == 6 and len(predictions[0]['pred_instances']['bboxes'])
    assert len(list((tmp_path / 'shown').iterdir())) == 6
    assert list((tmp_path / 'work').glob('*/*.json'))


@pytest.mark.slow
def test_tta_doubles_the_views(run_tool, trained, shapes, tmp_path):
    found = []
    for flags in ([], ['--tta']):
        result = run_tool('test', SHAPES_CONFIG, weights(trained), '--work-dir', tmp_path, '--out',
                          tmp_path / 'raw.pkl', *flags, '--cfg-options', *data_options(shapes),
                          'model.test_cfg.rcnn.score_thr=0.0')
        assert result.code == 0 and re.search(r'│ mask +│', result.out), result.err
        found.append(pickle.loads((tmp_path / 'raw.pkl').read_bytes())[0]['pred_instances']['bboxes'])
    assert found[0].shape != found[1].shape or not torch.equal(*found)


def test_image_demo_on_a_folder_and_a_file(run_tool, trained, shapes, tmp_path):
    out = tmp_path / 'out'
    result = run_tool('image_demo', shapes / 'val', SHAPES_CONFIG, weights(trained), '--out-dir', out, '--device',
                      'cpu', '--score-thr', 0)
    assert result.code == 0, result.err
    assert 'Inference' in result.out  # the progress bar
    assert sorted(p.name for p in (out / 'vis').iterdir()) == sorted(p.name for p in (shapes / 'val').iterdir())
    rows = json.loads((out / 'predictions.json').read_text())
    assert {row['file_name'] for row in rows} <= {p.name for p in (shapes / 'val').iterdir()}
    for row in rows:
        assert set(row) == {'image_id', 'file_name', 'category_id', 'category_name', 'bbox', 'score', 'segmentation'}
        assert row['segmentation']['size'] == [96, 96] and row['bbox'][2] >= 0 and row['bbox'][3] >= 0
    fewer = run_tool('image_demo', shapes / 'val' / '000000.png', SHAPES_CONFIG, weights(trained), '--out-dir', out,
                     '--score-thr', 0.999)
    assert fewer.code == 0 and json.loads((out / 'predictions.json').read_text()) == []
    assert rows


def test_results_of_image_demo_are_cocos(run_tool, trained, shapes, tmp_path):
    """With ids from an annotation file, pycocotools takes them; the file's ids are far from 1, 2, 3."""
    from pycocotools.coco import COCO
    content = json.loads((shapes / 'annotations' / 'instances_val.json').read_text())
    for image in content['images']:
        image['id'] += 1000
    for category in content['categories']:
        category['id'] *= 11
    ann_file = tmp_path / 'instances.json'
    ann_file.write_text(json.dumps(dict(content, annotations=[])))
    arguments = [shapes / 'val', SHAPES_CONFIG, weights(trained), '--out-dir', tmp_path / 'out', '--score-thr', 0]
    result = run_tool('image_demo', *arguments, '--ann-file', ann_file)
    assert result.code == 0, result.err
    rows = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert len(COCO(str(ann_file)).loadRes(rows).getAnnIds()) == len(rows) > 0
    assert all(row['category_id'] % 11 == 0 and row['image_id'] > 1000 for row in rows)
    ann_file.write_text(json.dumps(dict(content, images=content['images'][1:])))
    result = run_tool('image_demo', *arguments, '--ann-file', ann_file)
    assert result.code == 1 and "no image '000000.png'" in result.err


def test_records_of_another_config_of_the_same_name_are_not_taken(run_tool, tmp_path):
    for folder, channels in (('a', 16), ('b', 32)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'x.py').write_text(f"_base_ = '{SHAPES_CONFIG}'\nmodel = dict(rpn_head=dict(feat_channels="
                                                f'{channels}))\n')
    arguments = ['--size', 64, 64, '--runs', 1, '--out', tmp_path / 'out']
    assert run_tool('benchmark_detector', tmp_path / 'a' / 'x.py', *arguments).code == 0
    other = run_tool('benchmark_detector', tmp_path / 'b' / 'x.py', *arguments)
    assert other.code == 1 and "'x' in" in other.err and 'is of another config named x' in other.err
    both = run_tool('benchmark_detector', tmp_path / 'a' / 'x.py', tmp_path / 'b' / 'x.py', *arguments)
    assert both.code == 2 and 'config files must have different names' in both.err


def test_image_demo_names_the_classes_of_weights_alone(run_tool, trained, shapes, tmp_path):
    torch.save(load(weights(trained))['state_dict'], tmp_path / 'bare.pth')
    result = run_tool('image_demo', shapes / 'val', SHAPES_CONFIG, tmp_path / 'bare.pth', '--out-dir', tmp_path,
                      '--score-thr', 0)
    assert result.code == 0, result.err
    rows = json.loads((tmp_path / 'predictions.json').read_text())
    assert rows and {row['category_name'] for row in rows} <= {'circle', 'square', 'triangle', 'star'}


@pytest.mark.slow
def test_benchmark_detector(run_tool, trained, shapes):
    result = run_tool('benchmark_detector', SHAPES_CONFIG, '--checkpoint', weights(trained), '--size', 64, 96,
                      '--device', 'cpu', '--runs', 3)
    assert result.code == 0, result.err
    assert 'mask_rcnn_fasternet_t0_shapes' in result.out and 'Medians of 3 calls' in result.out
    conditions = ' '.join(result.out.split())  # the line may be broken anywhere
    assert f'batch 1, 64x96 pixels, float32, NCHW, eager, weights: {weights(trained)}, images: random' in conditions
    real = run_tool('benchmark_detector', SHAPES_CONFIG, '--images', shapes / 'val', '--runs', 1, '--batch', 2,
                    '--threads', 1)
    conditions = ' '.join(real.out.split())
    assert 'batch 2, 160x160 pixels' in conditions and 'with 1 threads' in conditions, real.err
    few = run_tool('benchmark_detector', SHAPES_CONFIG, '--images', shapes / 'val', '--runs', 1, '--batch', 99)
    assert few.code == 1 and '--batch 99 needs at least as many images' in few.err
    neither = run_tool('benchmark_detector')
    assert neither.code == 2 and '--table4' in neither.err
    clash = run_tool('benchmark_detector', SHAPES_CONFIG, '--images', shapes / 'val', '--size', 64, 64)
    assert clash.code == 2 and 'not allowed with' in clash.err
    both = run_tool('benchmark_detector', SHAPES_CONFIG, SHAPES_CONFIG, '--checkpoint', weights(trained))
    assert both.code == 2 and '--checkpoint' in both.err


@pytest.mark.slow
def test_benchmark_detector_writes_and_goes_on(run_tool, tmp_path):
    other = tmp_path / 'slow.py'
    other.write_text(f"_base_ = '{SHAPES_CONFIG}'\n")
    arguments = [SHAPES_CONFIG, other, '--size', 64, 96, '--device', 'cpu', '--out', tmp_path / 'out']
    first = run_tool('benchmark_detector', *arguments, '--runs', 2)
    assert first.code == 0, first.err
    times = {record.name: record.times_ms for record in read_records(tmp_path / 'out')}
    assert list(times) == ['mask_rcnn_fasternet_t0_shapes', 'slow']
    second = run_tool('benchmark_detector', *arguments, '--runs', 3)
    assert second.code == 0, second.err
    for record in read_records(tmp_path / 'out'):
        assert record.times_ms[:2] == times[record.name] and len(record.times_ms) == 3
        assert set(record.parts_ms) == {'preprocess', 'backbone', 'neck', 'RPN', 'RoI box', 'RoI mask', 'post-process'}
    written = {path.name for path in (tmp_path / 'out').iterdir()}
    assert written == {RECORDS, 'report.md', 'report.html', 'detectors.csv', 'parts-ms.csv', 'latency.png'}
    mixed = run_tool('benchmark_detector', *arguments, '--runs', 4, '--deploy')
    assert mixed.code == 1 and 'other conditions' in mixed.err


@pytest.fixture
def stopped_suites(monkeypatch):
    """What was to be measured, entries and rounds, instead of measuring it."""
    suites = []

    def run(entries, device, rounds, out):
        suites.append((entries, rounds))
        raise KeyboardInterrupt('stopped')

    monkeypatch.setattr('mmfasternet.benchmark.harness.suite.run_suite', run)
    return suites


def test_table_4_is_one_option(run_tool, stopped_suites):
    result = run_tool('benchmark_detector', '--table4')
    assert result.code == 130 and 'interrupted: stopped' in result.err
    seen = {entry.name for entry in stopped_suites[0][0]}
    assert len(seen) == 12 and {'mask_rcnn_pvt-large_1x_coco', 'mask_rcnn_fasternet_s_1x_coco'} <= seen


@pytest.mark.slow
def test_benchmark_classifier(run_tool, tmp_path):
    result = run_tool('benchmark_classifier', 'FasterNet-T0', 'MobileNetV1', '--batches', 1, 2, '--runs', 5,
                      '--threads', 1, '--device', 'cpu', '--out', tmp_path)
    assert result.code == 0, result.err
    for batch, runs in ((1, 5), (2, 1)):
        record = read_records(tmp_path / f'batch-{batch}')[0]
        conditions = record.conditions
        assert (record.name, conditions.batch_size, record.runs, conditions.threads) == ('FasterNet-T0', batch, runs, 1)
        assert conditions.form == 'eager, norms folded'
    assert (tmp_path / 'report.html').is_file() and (tmp_path / 'flops-and-flops-batch-1.png').is_file()
    half = run_tool('benchmark_classifier', 'FasterNet-T0', '--dtype', 'bfloat16', '--deploy', '--runs', 1,
                    '--device', 'cpu')
    assert 'bfloat16, NHWC, deploy' in half.out, half.err
    eager = run_tool('benchmark_classifier', 'Swin-T', 'FasterNet-T0', '--dtype', 'float16', '--runs', 1,
                     '--device', 'cpu')
    assert 'Batch 1: Swin-T was not measured: ' in eager.out and 'FasterNet-T0 was' not in eager.out, eager.err
    unknown = run_tool('benchmark_classifier', 'FasterNet-T9')
    assert unknown.code == 1 and "'FasterNet-T9'" in unknown.err and 'FasterNet-T0' in unknown.err


@pytest.mark.slow
def test_benchmarks_of_networks_of_timm(run_tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the base of the detector's config is found from any folder
    result = run_tool('benchmark_classifier', 'FasterNet-T0', 'timm:test_convnext', '--runs', 1, '--device', 'cpu',
                      '--out', 'classifiers')
    assert result.code == 0 and 'timm:test_convnext' in result.out, result.err
    rows = list(csv.DictReader(open('classifiers/classifiers.csv')))
    assert [row['top-1 (%)'] for row in rows] == ['71.9', '']
    mixed = run_tool('benchmark_detector', SHAPES_CONFIG, 'timm:test_resnet.r160_in1k', '--size', 64, 96, '--runs', 1,
                     '--device', 'cpu', '--deploy', '--out', 'detectors')
    assert mixed.code == 0 and 'eager' not in mixed.out, mixed.err
    names = [row['detector'] for row in csv.DictReader(open('detectors/detectors.csv'))]
    assert names == ['mask_rcnn_fasternet_t0_shapes', 'timm:test_resnet.r160_in1k']


@pytest.mark.parametrize('tool', ['benchmark_classifier', 'benchmark_detector'])
def test_benchmarks_without_timm(run_tool, monkeypatch, tool):
    monkeypatch.setitem(sys.modules, 'timm', None)
    result = run_tool(tool, 'timm:resnet18', '--device', 'cpu')
    assert result.code == 1 and 'pip install timm' in result.err.splitlines()[-1]


@pytest.mark.slow
def test_benchmark_training(run_tool, shapes, tmp_path):
    cfg = tmp_path / 'small.py'
    data = ''.join(f"{split}_dataloader = dict(dataset=dict(data_root='{shapes}/'))\n" for split in ('train', 'val'))
    cfg.write_text(f"_base_ = '{SHAPES_CONFIG}'\n{data}val_evaluator = dict(ann_file='{shapes}/annotations/"
                   f"instances_val.json')\n")
    arguments = [cfg, '--size', 64, 96, '--runs', 2, '--forms', 'plain', 'channels-last', '--device', 'cpu']
    result = run_tool('benchmark_training', *arguments, '--batch', 1, '--curve', 1, '--out', tmp_path / 'out')
    assert result.code == 0, result.err
    assert 'plain, another seed' in result.out and 'Batch 1, random images of 64x96 pixels' in result.out
    assert [(record.name, record.conditions.memory_format) for record in read_records(tmp_path / 'out')] == [
        ('small, plain', 'NCHW'), ('small, channels-last', 'NHWC')]
    assert (tmp_path / 'out' / 'loss-of-small.png').is_file()
    amp = run_tool('benchmark_training', cfg, '--forms', 'amp', '--device', 'cpu')
    assert amp.code == 1 and 'needs a GPU: choose --forms without it' in amp.err
    unknown = run_tool('benchmark_training', cfg, '--forms', 'fast')
    assert unknown.code == 1 and "'fast' must be plain" in unknown.err


def test_train_in_channels_last(run_tool, shapes, tmp_path, monkeypatch):
    seen = []
    original = SpeedUps.apply_to_model
    monkeypatch.setattr(SpeedUps, 'apply_to_model',
                        lambda self, model: (seen.append(self.form), original(self, model))[1])
    result = run_tool('train', SHAPES_CONFIG, '--work-dir', tmp_path, '--channels-last', '--cfg-options',
                      *data_options(shapes), 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1')
    assert result.code == 0 and seen == ['channels-last'], result.err
    assert 'coco/bbox_mAP' in result.out + result.err and load(tmp_path / 'epoch_1.pth')['state_dict']


@pytest.mark.slow
def test_benchmark_operators(run_tool, tmp_path, monkeypatch):
    build = partial_conv._random_fasternet
    monkeypatch.setattr(partial_conv, '_random_fasternet',
                        lambda arch, *args, **options: build('t0', *args, **options))  # not six sizes, for time
    monkeypatch.setattr(suite, 'warm_up', lambda function, device: function() is None or 1)
    result = run_tool('benchmark_operators', '--runs', 1, '--threads', 1, '--device', 'cpu', '--out', tmp_path)
    assert result.code == 0, result.err
    assert (tmp_path / 'table-1' / 'roofline.png').is_file()
    assert (tmp_path / 'table-9' / 'forms-of-partial-convolution.csv').is_file()


def test_benchmark_operators_hands_on_its_options(run_tool, stopped_suites):
    result = run_tool('benchmark_operators', '--table', 1, '--runs', 7, '--dtype', 'bfloat16', '--channels-last',
                      '--batch', 2, '--device', 'cpu')
    assert result.code == 130 and 'Forms of' not in result.out
    (entries, rounds), = stopped_suites
    assert rounds == 7 and 'PConv 96x56x56' in {entry.name for entry in entries}
    conditions = {(c.batch_size, c.dtype, c.memory_format) for c in (entry.conditions for entry in entries[:-1])}
    assert conditions == {(2, torch.bfloat16, 'NHWC')}


def test_approximate_conv(run_tool, tmp_path):
    images = tmp_path / 'images'
    images.mkdir()
    for index in range(11):
        cv2.imwrite(str(images / f'{index}.png'), torch.randint(0, 256, (60, 80, 3), dtype=torch.uint8).numpy())
    torch.save(resnet50().state_dict(), tmp_path / 'resnet50.pth')
    result = run_tool('approximate_conv', tmp_path / 'resnet50.pth', '--images', images, '--max-images', 10,
                      '--epochs', 1, '--lr', 1e-2, '--device', 'cpu', '--out', tmp_path / 'out')
    assert result.code == 0, result.err
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {
        'report.md', 'report.html', 'test-loss.csv', 'salient-positions.csv', 'salient-positions.png'}
    rows = list(csv.DictReader((tmp_path / 'out' / 'test-loss.csv').open()))
    assert [row['stage'] for row in rows] == ['1', '2', '3', '4', 'mean'] and float(rows[0]['PConv + PWConv']) > 0
    assert float(rows[4]['paper: PConv + PWConv']) == pytest.approx(0.0123, abs=1e-4)
    alone = run_tool('approximate_conv', tmp_path / 'resnet50.pth')
    assert alone.code == 0 and 'layer4' in alone.out and 'Test loss' not in alone.out
    few = run_tool('approximate_conv', tmp_path / 'resnet50.pth', '--images', images, '--max-images', 3)
    assert few.code == 1 and 'too few' in few.err


def ap_of(result):
    """The rows of numbers that test.py ends with."""
    rows = [re.findall(r'[\d.]+', line) for line in result.out.splitlines() if line.startswith(('│ box', '│ mask'))]
    assert len(rows) == 2
    return torch.tensor([[float(number) for number in row] for row in rows])


def assert_same_results(actual, expected):
    """Scores and AP of two runs of test.py are the same, but for near ties of barely trained weights."""
    (scores, result), (expected_scores, expected_result) = actual, expected
    torch.testing.assert_close(scores, expected_scores, rtol=0, atol=1e-3)
    torch.testing.assert_close(ap_of(result), ap_of(expected_result), rtol=0, atol=2e-3)


def run_test(run_tool, checkpoint, shapes, out, *options):
    result = run_tool('test', SHAPES_CONFIG, checkpoint, '--work-dir', out, *options, '--out', out.with_suffix('.pkl'),
                      '--cfg-options', *data_options(shapes), 'model.test_cfg.rcnn.score_thr=0.0')
    assert result.code == 0, result.err
    scores = [p['pred_instances']['scores'] for p in pickle.loads(out.with_suffix('.pkl').read_bytes())]
    return torch.cat(scores), result


@pytest.mark.slow
def test_test_in_the_inference_form(run_tool, trained, shapes, tmp_path):
    plain = run_test(run_tool, weights(trained), shapes, tmp_path / 'plain')
    deployed = run_test(run_tool, weights(trained), shapes, tmp_path / 'deploy', '--deploy')
    assert_same_results(deployed, plain)
    assert not torch.equal(deployed[0], plain[0])
    half, _ = run_test(run_tool, weights(trained), shapes, tmp_path / 'half', '--dtype', 'bfloat16')
    assert 1e-4 < (half.sort()[0] - plain[0].sort()[0]).abs().max() < 0.1
    mirrored = run_test(run_tool, weights(trained), shapes, tmp_path / 'tta', '--tta')
    both = run_test(run_tool, weights(trained), shapes, tmp_path / 'both', '--tta', '--deploy')
    assert_same_results(both, mirrored)
    assert not torch.equal(both[0], mirrored[0])


@pytest.mark.slow
def test_test_compiled(run_tool, trained, shapes, tmp_path, monkeypatch):
    plain = run_test(run_tool, weights(trained), shapes, tmp_path / 'plain')
    torch._dynamo.utils.counters.clear()
    compiled = run_test(run_tool, weights(trained), shapes, tmp_path / 'compiled', '--compile')
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] >= 3  # backbone, neck, RPN head
    assert_same_results(compiled, plain)
    torch._dynamo.utils.counters.clear()
    timed = run_tool('benchmark_detector', SHAPES_CONFIG, '--compile', '--size', 64, 96, '--device', 'cpu', '--runs', 2)
    assert 'NHWC, deploy, compile' in timed.out and torch._dynamo.utils.counters['stats']['unique_graphs'] >= 3


@pytest.mark.slow
@needs_export
@pytest.mark.parametrize('file_format', ['onnx', 'openvino'])
def test_an_exported_detector_is_tested_and_timed(run_tool, trained, shapes, tmp_path, monkeypatch, file_format):
    monkeypatch.chdir(tmp_path)
    plain = run_test(run_tool, weights(trained), shapes, tmp_path / 'plain')
    export = run_tool('export', SHAPES_CONFIG, weights(trained), '--format', file_format, '--parts',
                      '--images', shapes / 'val')
    assert export.code == 0, export.err
    folder = tmp_path / 'work_dirs' / 'mask_rcnn_fasternet_t0_shapes' / file_format
    assert export.out.count('largest difference from PyTorch') == 3 and '2 random, 4 real inputs' in export.out
    assert all((folder.relative_to(tmp_path) / f'{name}.{"onnx" if file_format == "onnx" else "xml"}').is_file()
               for name in ('dense', 'bbox_head', 'mask_head'))
    exported = run_test(run_tool, folder, shapes, tmp_path / 'exported')
    assert_same_results(exported, plain)
    mirrored = run_test(run_tool, weights(trained), shapes, tmp_path / 'tta', '--tta')
    both = run_test(run_tool, folder, shapes, tmp_path / 'both', '--tta')
    assert_same_results(both, mirrored)
    timed = run_tool('benchmark_detector', SHAPES_CONFIG, '--checkpoint', folder, '--size', 64, 96, '--runs', 2)
    assert f'exported, {file_format}' in timed.out, timed.err
    again = run_tool('export', SHAPES_CONFIG, weights(trained), '--format', file_format, '--parts')
    assert again.code == 1 and 'exists' in again.err.splitlines()[-1]


@pytest.mark.slow
@needs_export
def test_export_of_a_backbone_and_its_options(run_tool, trained, shapes, tmp_path):
    data = [SHAPES_CONFIG, weights(trained), '--backbone', '--images', shapes / 'val']
    result = run_tool('export', *data, '--out', tmp_path / 'backbone')
    assert result.code == 0 and (tmp_path / 'backbone' / 'backbone.onnx').is_file(), result.err
    strict = run_tool('export', *data, '--out', tmp_path / 'strict', '--tolerance', '1e-12')
    assert strict.code == 1 and 'exceeds the tolerance of 1.0e-12' in strict.err.splitlines()[-1]
    assert not (tmp_path / 'strict').exists()
    exported = run_tool('export', SHAPES_CONFIG, weights(trained), '--whole', '--out', tmp_path / 'end-to-end')
    assert exported.code == 0 and (tmp_path / 'end-to-end' / 'detector.onnx').is_file(), exported.err
    both = run_tool('export', *data, '--parts')
    assert both.code == 2 and 'not allowed with' in both.err
    result = run_tool('test', SHAPES_CONFIG, tmp_path / 'backbone', '--cfg-options', *data_options(shapes))
    assert result.code == 1 and 'another model' not in result.err and 'holds no dense' in result.err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize('file_format', ['onnx', pytest.param('openvino', marks=needs_nncf)])
@needs_export
def test_an_int8_detector_is_evaluated_tested_and_timed(run_tool, trained, shapes, tmp_path, file_format):
    config, folder, data = SHAPES_CONFIG, tmp_path / 'int8', ['--cfg-options', *data_options(shapes)]
    export = run_tool('export', config, weights(trained), '--format', file_format, '--dtype', 'int8', '--parts',
                      '--calibration', shapes / 'train', '--calibration-images', 3, '--accuracy-drop', 1,
                      '--out', folder, *data)
    assert export.code == 0, export.err
    found = re.findall(r'coco/(\w+)_mAP: (\d.\d{3}) in float32, (\d.\d{3}) in int8', export.out)
    assert [kind for kind, *_ in found] == ['bbox', 'segm'] and re.search(r'dense.* in int8, 1 in float32', export.out)
    manifest = Manifest.read(folder)
    tested = run_tool('test', config, folder, '--work-dir', tmp_path / 'test', *data)
    assert tested.code == 0, tested.err
    for kind, row in (('bbox', 'box'), ('segm', 'mask')):
        before, after = manifest.accuracy[f'coco/{kind}_mAP']
        assert f'{after:.3f}' == re.search(rf'{row} +│ +([\d.]+)', tested.out)[1]
        assert (kind, f'{before:.3f}', f'{after:.3f}') in found
    timed = run_tool('benchmark_detector', config, '--checkpoint', folder, '--size', 64, 96, '--device', 'cpu',
                     '--runs', 1)
    assert timed.code == 0 and f'exported, {file_format}, int8' in timed.out, timed.err


@pytest.mark.slow
@needs_export
def test_an_int8_classifier_is_evaluated_and_tested(run_tool, tmp_path):
    config = ROOT / 'configs' / 'fasternet_t0_digits.py'
    torch.manual_seed(0)
    model = build(load_config(str(config)).model, 'mmpretrain')
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'weights.pth')
    options = [config, tmp_path / 'weights.pth', '--dtype', 'int8', '--calibration-images', 2, '--accuracy-drop', 1]
    export = run_tool('export', *options, '--out', tmp_path / 'int8')
    assert export.code == 0, export.err
    after = re.search(r'accuracy/top1: [\d.]+ in float32, ([\d.]+) in int8', export.out)[1]
    tested = run_tool('test', config, tmp_path / 'int8', '--work-dir', tmp_path / 'test')
    assert tested.code == 0, tested.err
    top1 = float(re.search(r'accuracy/top1 +│ +([\d.]+)', tested.out)[1])
    assert f'{top1 / 100:.3f}' == after
    strict = run_tool('export', *options, '--tolerance', '1e-12', '--out', tmp_path / 'strict')
    assert strict.code == 1 and 'exceeds the tolerance' in strict.err.splitlines()[-1]
    none = run_tool('export', *options[:-2], '--no-accuracy', '--out', tmp_path / 'none')
    assert none.code == 0 and 'top1' not in none.out, none.err


@pytest.mark.parametrize('tool, arguments', [
    ('image_demo', ['.', SHAPES_CONFIG, 'weights.pth', '--batch-size']),
    ('benchmark_detector', [SHAPES_CONFIG, '--threads']), ('benchmark_forms', [SHAPES_CONFIG, '--rounds']),
    ('compare_backbones', [SHAPES_CONFIG, '--seeds']), ('benchmark_training', ['--curve']),
    ('approximate_conv', ['weights.pth', '--max-images']),
])
def test_a_count_out_of_its_range_is_named(run_tool, tool, arguments):
    result = run_tool(tool, *arguments, 0)
    assert result.code == 2
    assert result.err.endswith(f'error: argument {arguments[-1]}: must be an integer of at least 1, got 0\n')


@pytest.mark.parametrize('options, text', [
    (['--no-accuracy'], 'need --dtype int8'), (['--calibration', '.'], 'need --dtype int8'),
    (['--accuracy-drop', '0.1'], 'need --dtype int8'), (['--calibration-images', '9'], 'need --dtype int8'),
    (['--dtype', 'int8', '--whole'], 'use --parts'),
    (['--dtype', 'int8', '--calibration-images', '0'], 'at least 1'),
    (['--dtype', 'int8', '--accuracy-drop', 'nan'], 'from 0 to 1'),
    (['--dtype', 'int8', '--accuracy-drop', '5'], 'from 0 to 1'),
    (['--dtype', 'int8', '--no-accuracy', '--accuracy-drop', '0.1'], 'not allowed with'),
])
def test_options_of_int8_that_do_not_go_together(run_tool, options, text):
    result = run_tool('export', SHAPES_CONFIG, 'weights.pth', *options)
    assert result.code == 2 and text in result.err


@pytest.mark.slow
def test_benchmark_forms(run_tool, trained, shapes, tmp_path):
    classifier = ROOT / 'configs' / 'fasternet_t0_in1k.py'
    result = run_tool('benchmark_forms', classifier, '--size', 32, 64, '--batch', 2, '--threads', 1, '--rounds', 1,
                      '--dtypes', 'float32', '--no-compile', '--device', 'cpu', '--out', tmp_path)
    assert result.code == 0, result.err
    assert 'slice in place (wrong)' in result.out and 'bfloat16' not in result.out and 'compile' not in result.out
    folder = tmp_path / 'fasternet_t0_in1k'
    record = read_records(folder)[0]
    conditions = record.conditions
    assert (conditions.batch_size, conditions.input_size, conditions.threads, record.runs) == (2, '32x64', 1, 3)
    assert {path.name for path in folder.iterdir()} == {RECORDS, 'report.md', 'report.html', 'forms.csv', 'latency.png'}
    detector = run_tool('benchmark_forms', SHAPES_CONFIG, '--checkpoint', weights(trained), '--images', shapes / 'val',
                        '--dtypes', 'float32', '--no-compile', '--rounds', 1)
    assert detector.code == 0 and 'ONNX Runtime' in detector.out and '160x160 pixels' in detector.out, detector.err
    clash = run_tool('benchmark_forms', classifier, SHAPES_CONFIG, '--checkpoint', weights(trained))
    assert clash.code == 2 and '--checkpoint' in clash.err


@pytest.mark.slow
@pytest.mark.parametrize('config, size', [('fasternet_t0_in1k.py', (32, 64)), (SHAPES_CONFIG.name, (64, 96))])
def test_benchmark_forms_in_int8(run_tool, config, size):
    result = run_tool('benchmark_forms', ROOT / 'configs' / config, '--size', *size, '--dtypes', 'int8', '--rounds', 1,
                      '--device', 'cpu')
    assert result.code == 0, result.err
    runtimes = [('ONNX Runtime', 'NCHW'), ('OpenVINO', 'NHWC')]
    for runtime, layout in runtimes if importlib.util.find_spec('nncf') else runtimes[:1]:
        assert re.search(rf'{runtime} +│ +int8 +│ +{layout} +│ +[\d.]+', result.out), result.out
    assert 'bfloat16' not in result.out


@pytest.mark.slow
def test_benchmark_detector_in_the_inference_form(run_tool, trained):
    for options, part in ((['--deploy'], 'float32, NHWC, deploy,'),
                          (['--dtype', 'bfloat16'], 'bfloat16, NHWC, deploy,'), ([], 'float32, NCHW, eager,')):
        result = run_tool('benchmark_detector', SHAPES_CONFIG, '--checkpoint', weights(trained), '--size', 64, 96,
                          '--device', 'cpu', '--runs', 2, *options)
        assert part in result.out, result.err


def test_get_flops(run_tool):
    result = run_tool('get_flops', ROOT / 'configs' / 'fasternet_t0_in1k.py', SHAPES_CONFIG, '--size', 64, 96)
    assert result.code == 0, result.err
    classifier, detector = result.out.split('mask_rcnn_fasternet_t0_shapes')
    assert re.search(r'total +│ +3\.91 │ +0\.04', classifier) and re.search(r'bbox head +│', detector)
    native = run_tool('get_flops', ROOT / 'configs' / 'fasternet_t0_in1k.py')
    assert re.search(r'total +│ +3\.91 │ +0\.34', native.out), native.err


WITH_DATA = ['--cfg-options', *data_options('{shapes}')]


@pytest.mark.parametrize('tool, arguments, part', [
    ('train', ['configs/none.py'], 'configs/none.py'),
    ('train', [SHAPES_CONFIG, *WITH_DATA, 'model.backbone.arch=x'], 'arch must be'),
    ('train', [SHAPES_CONFIG, '--cfg-options', 'train_dataloader.dataset.data_root=gone'], "'gone'"),
    ('train', [SHAPES_CONFIG, '--cfg-options', 'train_dataloader.dataset.data_root=2024'], 'must be a string'),
    ('train', [SHAPES_CONFIG, '--resume', 'gone.pth', *WITH_DATA], "'gone.pth'"),
    ('train', [SHAPES_CONFIG, '--launcher', 'slurm'], 'launcher slurm'),
    ('train', [SHAPES_CONFIG, '--launcher', 'pytorch'], 'torchrun --nproc_per_node=8 -m mmfasternet train'),
    ('test', [SHAPES_CONFIG, 'gone.pth', *WITH_DATA], "'gone.pth'"),
    ('test', [SHAPES_CONFIG, 'gone.pth', '--out', 'raw.json'], 'raw.json'),
    ('image_demo', ['gone.jpg', SHAPES_CONFIG, 'gone.pth'], "'gone.jpg'"),
    ('image_demo', [ROOT / 'tests', SHAPES_CONFIG, 'gone.pth'], 'holds no image'),
    ('image_demo', ['{shapes}/val', SHAPES_CONFIG, 'gone.pth'], "'gone.pth'"),
    ('image_demo', ['{shapes}/val', SHAPES_CONFIG, __file__, '--device', 'cuda:9'], "'cuda:9'"),
    ('image_demo', ['{shapes}/val', SHAPES_CONFIG, '{trained}', '--ann-file', 'gone.json'], "'gone.json'"),
    ('test', [SHAPES_CONFIG, '{trained}', *WITH_DATA, 'model.backbone.arch=t1',
              'model.neck.in_channels=64,128,256,512'], 'does not fit'),
    ('test', [SHAPES_CONFIG, __file__, *WITH_DATA], 'test_tools.py'),
    ('train', [ROOT / 'configs' / '_base_' / 'mask_rcnn_fasternet_1x_coco.py', '--launcher', 'pytorch'], 'torchrun'),
    ('train', [SHAPES_CONFIG, *WITH_DATA, 'load_from=gone.pth'], "'gone.pth'"),
    ('convert_checkpoint', ['gone.pth', 'out.pth'], "'gone.pth'"),
    ('convert_checkpoint', ['{trained}', '{trained}'], 'already exists'),
    ('convert_checkpoint', ['{trained}', 'out.pth', '--to', 'timm'], 'without an equivalent in the timm layout'),
    ('publish_model', ['gone.pth', 'out.pth'], "'gone.pth'"),
    ('get_flops', ['gone.py'], "'gone.py'"),
    ('benchmark_detector', [SHAPES_CONFIG, '--checkpoint', 'gone.pth'], "'gone.pth'"),
    ('benchmark_detector', [SHAPES_CONFIG, '--device', 'abacus'], "'abacus'"),
    ('benchmark_detector', [SHAPES_CONFIG, '--images', 'gone'], "'gone'"),
    ('benchmark_detector', [SHAPES_CONFIG, '--checkpoint', '{shapes}'], 'holds no export.json'),
    ('benchmark_classifier', ['timm:resnett18'], 'Similar names: resnet18, '),
    ('benchmark_detector', [SHAPES_CONFIG, 'timm:resnett18'], 'Similar names: resnet18, '),
    ('benchmark_detector', ['timm:test_vit'], 'an FPN needs 4, 8, 16 and 32'),
    ('benchmark_forms', [SHAPES_CONFIG, '--checkpoint', 'gone.pth'], "'gone.pth'"),
    ('benchmark_forms', [SHAPES_CONFIG, '--images', 'gone'], "'gone'"),
    ('make_nuclei_coco', ['gone', 'nuclei'], "'gone' does not exist. Give the unpacked stage1_train"),
    ('export', [SHAPES_CONFIG, 'gone.pth'], "'gone.pth'"),
    ('export', [SHAPES_CONFIG, '{trained}', '--images', 'gone'], "'gone'"),
    ('export', [ROOT / 'configs' / 'fasternet_t0_digits.py', '{trained}'], 'does not fit'),
    ('test', [SHAPES_CONFIG, '{shapes}', *WITH_DATA], 'holds no export.json'),
    ('test', [SHAPES_CONFIG, '{shapes}', '--compile', *WITH_DATA], '--compile'),
])
def test_bad_input_is_one_line(run_tool, trained, shapes, tmp_path, monkeypatch, tool, arguments, part):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.delenv('RANK', raising=False)
    places = {'{shapes}': shapes, '{trained}': weights(trained)}
    for name, place in places.items():
        arguments = [str(argument).replace(name, str(place)) for argument in arguments]
    result = run_tool(tool, *arguments)
    line = result.err.splitlines()[-1]
    assert result.code == 1 and line.startswith('error: ') and part in line
    assert 'Traceback' not in result.err
    assert not list(tmp_path.iterdir())


PLACE = f'{__file__}/place'  # no folder can be there


@pytest.mark.parametrize('tool, arguments', [
    ('train', [SHAPES_CONFIG, '--work-dir', PLACE]),
    ('train', [SHAPES_CONFIG, '--work-dir', __file__]),
    ('train', [SHAPES_CONFIG, '--cfg-options', f'default_hooks.checkpoint.out_dir={PLACE}']),
    ('test', [SHAPES_CONFIG, 'gone.pth', '--work-dir', PLACE]),
    ('test', [SHAPES_CONFIG, 'gone.pth', '--out', f'{PLACE}.pkl']),
    ('test', [SHAPES_CONFIG, 'gone.pth', '--show-dir', PLACE]),
    ('test', [SHAPES_CONFIG, 'gone.pth', '--cfg-options', f'test_evaluator.outfile_prefix={PLACE}']),
    ('image_demo', ['{shapes}/val', SHAPES_CONFIG, 'gone.pth', '--out-dir', PLACE]),
    ('export', [SHAPES_CONFIG, '{trained}', '--out', PLACE]),
    ('convert_checkpoint', ['gone.pth', f'{PLACE}.pth']),
    ('publish_model', ['gone.pth', f'{PLACE}.pth']),
    ('make_shapes_coco', [PLACE]),
    ('make_shapes_coco', ['x' * 300]),
    ('make_nuclei_coco', ['gone', PLACE]),
    ('approximate_conv', ['gone.pth', '--out', PLACE]),
    ('benchmark_all', ['--out', PLACE]),
    ('benchmark_classifier', ['FasterNet-T0', '--out', PLACE]),
    ('benchmark_detector', [SHAPES_CONFIG, '--out', PLACE]),
    ('benchmark_forms', [SHAPES_CONFIG, '--out', PLACE]),
    ('benchmark_operators', ['--out', PLACE]),
    ('benchmark_training', ['--out', PLACE]),
])
def test_a_place_that_cannot_be_written_is_said_before_the_work(run_tool, trained, shapes, tmp_path, monkeypatch, tool,
                                                                arguments):
    """Also where a checkpoint is missing, which is read after that; the advice is none of another tool's."""
    monkeypatch.chdir(tmp_path)
    places = {'{shapes}': str(shapes), '{trained}': str(weights(trained))}
    for name, place in places.items():
        arguments = [str(argument).replace(name, place) for argument in arguments]
    result = run_tool(tool, *arguments)
    line = result.err.splitlines()[-1]
    assert result.code == 1, result.err
    assert re.match(r"error: '\S+' can't be written: ('\S+test_tools\.py' is not a folder\. Choose another place|"
                    r'File name too long\. Give it a shorter name)$', line), line
    assert 'Traceback' not in result.err and not list(tmp_path.iterdir())


def test_results_of_images_without_annotations(run_tool, trained, shapes, tmp_path):
    """As of COCO's test-dev, whose annotations are not given away: files for its server, and nothing to evaluate."""
    content = json.loads((shapes / 'annotations' / 'instances_val.json').read_text())
    del content['annotations']
    (tmp_path / 'test-dev.json').write_text(json.dumps(content))
    prefix = tmp_path / 'for [the] server' / 'test-dev'
    result = run_tool('test', SHAPES_CONFIG, weights(trained), '--work-dir', tmp_path / 'work', '--cfg-options',
                      *data_options(shapes), f'test_evaluator.ann_file={tmp_path}/test-dev.json',
                      f'test_dataloader.dataset.ann_file={tmp_path}/test-dev.json', 'test_evaluator.format_only=True',
                      f'test_evaluator.outfile_prefix={prefix}', 'model.test_cfg.rcnn.score_thr=0.0')
    assert result.code == 0, result.err
    rows = json.loads((prefix.parent / 'test-dev.segm.json').read_text())
    assert {row['image_id'] for row in rows} == {image['id'] for image in content['images']}
    assert result.out.endswith(f'nothing was evaluated, because of format_only=True. Results are in:\n'
                               f'{prefix}.bbox.json ({len(rows)} results)\n{prefix}.segm.json ({len(rows)} results)\n')


def test_no_detections_give_no_metrics(run_tool, trained, shapes, tmp_path):
    result = run_tool('test', SHAPES_CONFIG, weights(trained), '--work-dir', tmp_path / 'work', '--cfg-options',
                      *data_options(shapes), 'model.test_cfg.rcnn.score_thr=1.0')
    assert result.code == 0 and 'no metrics: ' in result.out and 'nothing was detected' in result.out, result.err


def tools_that_read(checkpoint, shapes, out):
    """Every way to hand a checkpoint to a tool."""
    data = ['--cfg-options', *data_options(shapes)]
    return {
        'test': ['test', SHAPES_CONFIG, checkpoint, '--work-dir', out, *data],
        'resume': ['train', SHAPES_CONFIG, '--resume', checkpoint, '--work-dir', out, *data],
        'load_from': ['train', SHAPES_CONFIG, '--work-dir', out, *data, f'load_from={checkpoint}'],
        'init_cfg': ['train', SHAPES_CONFIG, '--work-dir', out, *data, 'model.backbone.init_cfg.type=Pretrained',
                     f'model.backbone.init_cfg.checkpoint={checkpoint}'],
        'image_demo': ['image_demo', shapes / 'val', SHAPES_CONFIG, checkpoint, '--out-dir', out],
        'benchmark': ['benchmark_detector', SHAPES_CONFIG, '--checkpoint', checkpoint, '--size', 64, 64, '--runs', 2],
        'forms': ['benchmark_forms', SHAPES_CONFIG, '--checkpoint', checkpoint, '--size', 64, 64, '--rounds', 1,
                  '--no-compile', '--dtypes', 'float32'],
        'export': ['export', SHAPES_CONFIG, checkpoint, '--backbone', '--out', out],
        'convert': ['convert_checkpoint', checkpoint, out / 'converted.pth'],
        'publish': ['publish_model', checkpoint, out / 'published.pth'],
    }


@pytest.mark.slow
@pytest.mark.parametrize('way', list(tools_that_read('', ROOT, ROOT)))
def test_a_hostile_checkpoint_is_refused_and_not_run(run_tool, trained, shapes, tmp_path, way):
    """A whole training checkpoint with code hidden in it; only trust loads it, and lets the code run."""
    path, ran, out = tmp_path / 'hostile.pth', tmp_path / 'ran', tmp_path / 'out'
    content = load(weights(trained))
    content['meta']['hidden'] = [Call(os.system, f'mkdir -p {ran}')]
    torch.save(content, path)
    name, *arguments = tools_that_read(path, shapes, out)[way]
    result = run_tool(name, *arguments)
    line = result.err.splitlines()[-1]
    assert result.code == 1 and 'hostile.pth' in line and 'system' in line and '--trust-checkpoint' in line, result.err
    assert not ran.exists() and not out.exists()
    if name == 'train':
        arguments += ['train_cfg.max_epochs=2', 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']
    at = arguments.index('--cfg-options') if '--cfg-options' in arguments else len(arguments)
    result = run_tool(name, *arguments[:at], '--trust-checkpoint', *arguments[at:])
    assert result.code == 0 and ran.exists(), result.err
    assert result.err.count('warning: --trust-checkpoint') == 1


@pytest.mark.slow
@pytest.mark.parametrize('name', ['official.pth', 'official.safetensors', 'site/official.pth'])
def test_a_detector_of_mmdetection_2_needs_no_conversion(run_tool, trained, shapes, tmp_path, web_server, name):
    """Its official layout gives the same AP and predictions as ours, from a file or a URL."""
    path = tmp_path / name
    assert run_tool('convert_checkpoint', weights(trained), path, '--to', 'official').code == 0
    assert 'backbone.patch_embed.proj.weight' in load(path)['state_dict']
    found = []
    if name.startswith('site/'):
        path = f'{web_server[0]}/{path.name}'
    for checkpoint in (weights(trained), path):
        out = tmp_path / Path(checkpoint).stem
        result = run_tool('test', SHAPES_CONFIG, checkpoint, '--work-dir', out, '--out', out.with_suffix('.pkl'),
                          '--cfg-options', *data_options(shapes), 'model.test_cfg.rcnn.score_thr=0.0')
        assert result.code == 0, result.err
        predictions = pickle.loads(out.with_suffix('.pkl').read_bytes())
        found.append(torch.cat([p['pred_instances']['bboxes'] for p in predictions]))
    assert len(found[0]) and torch.equal(*found)
    result = run_tool('image_demo', shapes / 'val', SHAPES_CONFIG, path, '--out-dir', tmp_path / 'out', '--score-thr',
                      0)
    assert result.code == 0, result.err
    rows = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert rows and {row['category_name'] for row in rows} <= {'circle', 'square', 'triangle', 'star'}


def test_a_training_starts_from_an_official_classifier(run_tool, shapes, tmp_path):
    backbone = FasterNet('t0', out_norm=False)
    randomize_norms(backbone)
    torch.save(official_classifier(backbone), tmp_path / 'official.pth')
    # No step of the optimizer: what comes out is what was loaded, but for the batch statistics.
    result = run_tool('train', SHAPES_CONFIG, '--work-dir', tmp_path / 'work', '--cfg-options', *data_options(shapes),
                      *QUICK, 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None',
                      f'load_from={tmp_path / "official.pth"}', 'optim_wrapper.optimizer.lr=0.0')
    assert result.code == 0, result.err
    after = convert(load(tmp_path / 'work' / 'epoch_1.pth')['state_dict'], 'backbone')
    for key, value in backbone.named_parameters():
        assert torch.equal(after[key], value), key


def test_training_of_others_cannot_be_resumed(run_tool, trained, shapes, tmp_path):
    content = load(weights(trained))
    torch.save(dict(state_dict=convert(content['state_dict'], 'official'), optimizer=content['optimizer'],
                    meta=dict(CLASSES=('a', ), epoch=2, iter=4)), tmp_path / '2x.pth')
    result = run_tool('train', SHAPES_CONFIG, '--resume', tmp_path / '2x.pth', '--cfg-options', *data_options(shapes))
    assert result.code == 1 and 'no training state that can be resumed' in result.err and 'load_from' in result.err


def test_convert_checkpoint_says_what_it_found(run_tool, trained, tmp_path):
    save_file(timm.create_model('fasternet_t1', num_classes=12).state_dict(), tmp_path / 'model.safetensors')
    for arguments, line in (
        ([tmp_path / 'model.safetensors', tmp_path / 'ours.pth'],
         f'FasterNet-T1, timm classifier, 12 classes -> mmfasternet classifier: {tmp_path}/ours.pth\n'),
        ([tmp_path / 'ours.pth', tmp_path / 'official.pth', '--to', 'official'],
         f'FasterNet-T1, mmfasternet classifier, 12 classes -> official classifier: {tmp_path}/official.pth\n'),
        ([tmp_path / 'official.pth', tmp_path / 'bare.pth', '--to', 'backbone'],
         f'FasterNet-T1, official classifier, 12 classes -> mmfasternet backbone: {tmp_path}/bare.pth\n'),
        ([tmp_path / 'bare.pth', tmp_path / 'timm.safetensors', '--to', 'timm'],
         f'FasterNet-T1, mmfasternet backbone -> timm backbone: {tmp_path}/timm.safetensors\n'),
        ([weights(trained), tmp_path / '2x.pth', '--to', 'official'],
         f'FasterNet-T0, mmfasternet detector, 4 classes -> official detector: {tmp_path}/2x.pth\n'),
    ):
        result = run_tool('convert_checkpoint', *arguments)
        assert result.code == 0 and result.out == line, result.err


def test_convert_checkpoint_offers_all_targets(run_tool):
    result = run_tool('convert_checkpoint', '--help')
    assert f"--to {{{','.join(TARGETS)}}}" in result.out


def test_convert_checkpoint_warns_of_what_is_no_variant(run_tool, tmp_path):
    official = official_classifier(FasterNet('t0', out_norm=False))
    torch.save({key: value for key, value in official.items() if 'stages.4.blocks.7' not in key}, tmp_path / 'cut.pth')
    result = run_tool('convert_checkpoint', tmp_path / 'cut.pth', tmp_path / 'ours.pth')
    assert result.code == 0 and re.search(r'warning: .*cut\.pth holds .* 1-2-7-2 blocks.*complete', result.err)


def test_a_published_model_is_evaluated_alike(run_tool, trained, shapes, tmp_path):
    result = run_tool('publish_model', weights(trained), tmp_path / 'model.pth')
    path = tmp_path / re.search(r'model-[0-9a-f]{8}\.pth', result.out)[0]
    assert result.code == 0 and path.is_file() and result.out == (
        f'{path} ({path.stat().st_size / 1e6:.1f} MB), without message_hub, optimizer, param_schedulers\n')
    result = run_tool('test', SHAPES_CONFIG, path, '--work-dir', tmp_path, '--cfg-options', *data_options(shapes))
    assert result.code == 0 and '│' in result.out, result.err


@pytest.mark.parametrize('workers', [0, 1])
def test_a_truncated_image_stops_training_with_its_name(run_tool, shapes, tmp_path, workers):
    data = shutil.copytree(shapes, tmp_path / 'data')
    broken = data / 'train' / '000003.png'
    broken.write_bytes(broken.read_bytes()[:-100])
    result = run_tool('train', SHAPES_CONFIG, '--work-dir', tmp_path / 'work', '--cfg-options', *data_options(data),
                      *QUICK, f'train_dataloader.num_workers={workers}')
    line = result.err.splitlines()[-1]
    assert result.code == 1 and line.startswith('error: image') and '000003.png' in line and 'broken' in line


@pytest.mark.slow
def test_as_a_user_types_it_with_two_processes(trained, shapes, tmp_path):
    """Two processes train; evaluated by one and by two, a checkpoint finds the same objects and has the same AP."""
    options = ['--cfg-options', *data_options(shapes)]

    def run(*command):
        result = subprocess.run([str(c) for c in command], cwd=ROOT, capture_output=True, text=True, timeout=600,
                                env=environment(MASTER_PORT=free_port(), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''))
        assert result.returncode == 0, result.stderr[-3000:]

    run('tools/dist_train.sh', SHAPES_CONFIG, 2, '--work-dir', tmp_path / 'train', *options, *QUICK,
        'train_dataloader.batch_size=2', 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None')
    content = load(tmp_path / 'train' / 'epoch_1.pth')
    assert content['meta']['iter'] == 2  # eight images over two processes, two at a time

    options.append('model.test_cfg.rcnn.score_thr=0.0')
    evaluate = [SHAPES_CONFIG, weights(trained)]
    run(sys.executable, 'tools/test.py', *evaluate, '--work-dir', tmp_path / 'one', '--out', tmp_path / '1.pkl',
        *options)
    run('tools/dist_test.sh', *evaluate, 2, '--work-dir', tmp_path / 'two', '--out', tmp_path / '2.pkl', *options)
    logs = [json.loads(next((tmp_path / name).glob('*/*.json')).read_text()) for name in ('one', 'two')]
    one, two = ({key: value for key, value in log.items() if key.startswith('coco/')} for log in logs)
    assert one == two and 'coco/segm_mAP' in one
    for a, b in zip(*(pickle.loads((tmp_path / f'{count}.pkl').read_bytes()) for count in (1, 2)), strict=True):
        assert a['img_path'] == b['img_path'] and len(a['pred_instances']['scores'])
        for field in ('bboxes', 'scores', 'labels'):
            torch.testing.assert_close(a['pred_instances'][field], b['pred_instances'][field])


@pytest.mark.slow
def test_bad_input_of_several_processes_is_said_once(tmp_path):
    result = subprocess.run([TOOLS / 'dist_train.sh', SHAPES_CONFIG, '2', '--work-dir', tmp_path / 'work',
                             '--cfg-options', 'train_dataloader.dataset.data_root=gone'],
                            capture_output=True, text=True, env=environment(MASTER_PORT=free_port()))
    assert result.returncode == 1 and result.stderr.count("error: data folder 'gone'") == 1
    assert 'Traceback' not in result.stderr and not (tmp_path / 'work').exists()


@pytest.mark.slow
@pytest.mark.parametrize('fails', ['first later', 'second only'])
def test_of_several_processes_one_says_the_error(tmp_path, fails):
    """The launcher ends all when one fails; a process that the first one does not follow speaks for itself."""
    script = tmp_path / 'script.py'
    script.write_text(f"""
import os, pathlib, time
from mmfasternet.cli import options
from mmfasternet.engine import processes  # PyTorch, before there is an error
from mmfasternet.errors import UserError
started = pathlib.Path({str(tmp_path / 'started')!r})
if os.environ['RANK'] == '0':
    started.touch()
    time.sleep(2 if {fails!r} == 'first later' else 600)
else:
    while not started.exists():
        time.sleep(.1)
    if {fails!r} == 'second only':
        options._PATIENCE = 1
with options.one_line_errors():
    raise UserError('gone, says ' + os.environ['RANK'])
""")
    result = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2',
                             f'--master_port={free_port()}', script], capture_output=True, text=True,
                            env=environment(PYTHONPATH=str(ROOT)))
    said = re.findall(r'^error: gone, says (\d)$', result.stderr, re.MULTILINE)
    assert result.returncode == 1 and said == ['0' if fails == 'first later' else '1']


@pytest.mark.parametrize('name, arguments', [('train', ['part', 'job', 'c.py', '--amp']),
                                             ('test', ['part', 'job', 'c.py', 'w.pth', '--tta'])])
def test_slurm_scripts_hand_everything_to_srun(tmp_path, name, arguments):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    result = subprocess.run([TOOLS / f'slurm_{name}.sh', *arguments], capture_output=True, text=True, check=True,
                            env=dict(os.environ, PATH=f'{tmp_path}:{os.environ["PATH"]}', GPUS='4', SRUN_ARGS='--x 1'))
    for part in ('--partition=part', '--job-name=job', '--ntasks=4', '--gres=gpu:4', '--x 1',
                 f'{name}.py {" ".join(arguments[2:-1])} --launcher slurm {arguments[-1]}'):
        assert part in result.stdout
