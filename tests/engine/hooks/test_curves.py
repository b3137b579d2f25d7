"""The plot that every training leaves."""

import json
import random
import signal

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from PIL import Image

from mmfasternet.checkpoints import read_checkpoint
from mmfasternet.engine.config import load_config
from mmfasternet.engine.hooks import curves
from mmfasternet.engine.hooks.curves import VALIDATIONS, curves_of, draw, thinned
from mmfasternet.engine.train_test import train
from tests.conftest import ROOT, SHAPES_CONFIG, data_options
from tests.engine.hooks.test_resume import losses, shapes_config

LOSSES = ['loss', 'loss_bbox', 'loss_cls', 'loss_mask', 'loss_rpn_bbox', 'loss_rpn_cls']


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn."""
    drawn = []
    monkeypatch.setattr(curves, 'draw', lambda *args: drawn.append(draw(*args)) or drawn[-1])
    return drawn


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(curves, 'print_log', lambda line, *args: lines.append(line))
    return lines


def lines_of(figure):
    """Points of each line by its label, by the label of its axes."""
    return {axes.get_ylabel(): {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
            for axes in figure.axes}


def with_validation(shapes, work_dir, **options):
    """Two epochs of four iterations, each validated; the log has each iteration's own losses."""
    cfg = load_config(str(SHAPES_CONFIG), dict(option.split('=', 1) for option in data_options(shapes)))
    kept = {key: cfg[key] for key in ('val_cfg', 'val_dataloader', 'val_evaluator')}
    return shapes_config(shapes, work_dir, **{**kept, 'log_processor.window_size': 1, 'train_cfg.val_interval': 1,
                                              **options})


def scalars(work_dir):
    return [json.loads(line) for path in sorted(work_dir.glob('*/vis_data/scalars.json'))
            for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_losses_learning_rate_and_metrics_are_those_of_the_log(shapes, tmp_path, figures):
    train(with_validation(shapes, tmp_path))
    assert len(figures) == 2  # after each validation; at the end there is nothing new
    logged, panels = scalars(tmp_path), lines_of(figures[-1])
    assert sorted(panels['loss']) == LOSSES and figures[-1].axes[0].get_lines()[0].get_label() == 'loss'
    for panel, names in (('loss', LOSSES), ('learning rate', ['lr'])):
        for name in names:
            rows = [(row['iter'], row[name]) for row in logged if 'iter' in row]
            assert len(rows) == 8
            np.testing.assert_allclose(panels[panel][name], rows, rtol=1e-6)
    metrics = [f'coco/{kind}_mAP{what}' for what in ('', '_50') for kind in ('bbox', 'segm')]
    assert list(panels['metrics']) == metrics
    for name in metrics:
        assert panels['metrics'][name] == [[iteration, row[name]] for iteration, row in zip(
            (4, 8), (row for row in logged if 'coco/bbox_mAP' in row))]
    assert [axes.get_xlabel() for axes in figures[-1].axes] == ['', '', 'iteration']
    top, = figures[-1].axes[0].child_axes
    assert top.get_xlabel() == 'epoch' and top.get_xlim() == pytest.approx(
        np.array(figures[-1].axes[0].get_xlim()) / 4)
    with Image.open(tmp_path / 'curves.png') as image:
        assert image.format == 'PNG' and min(image.size) > 600
    assert not list(tmp_path.glob('.*unfinished'))
    text, = tmp_path.glob('*/*.log')
    line = next(line for line in text.read_text().splitlines() if 'Epoch(val)' in line and 'coco/bbox_mAP' in line)
    assert 'validat' not in line  # nothing but metrics and times


@pytest.mark.slow
def test_a_resumed_training_shows_the_whole(shapes, tmp_path, figures):
    train(with_validation(shapes, tmp_path / 'unbroken'))
    expected = lines_of(figures[-1])
    cfg = with_validation(shapes, tmp_path / 'resumed')
    cfg.resume = str(tmp_path / 'unbroken' / 'iter_6.pth')
    train(cfg)
    assert [row['iter'] for row in scalars(tmp_path / 'resumed') if 'iter' in row] == [7, 8]
    if not torch.cuda.is_available():
        assert lines_of(figures[-1]) == expected
    cfg = with_validation(shapes, tmp_path / 'again')  # the validation after iteration 4 is done again
    cfg.resume = str(tmp_path / 'unbroken' / 'iter_4.pth')
    train(cfg)
    assert [[at for at, _ in points] for points in lines_of(figures[-1])['metrics'].values()] == [[4, 8]] * 4


def test_without_validation_by_iterations(shapes, tmp_path, figures):
    cfg = shapes_config(shapes, tmp_path)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=3)
    cfg.param_scheduler = []
    train(cfg)
    figure, = figures
    assert list(lines_of(figure)) == ['loss', 'learning rate']
    assert [at for at, _ in lines_of(figure)['loss']['loss']] == [1, 2, 3]
    assert not figure.axes[0].child_axes and (tmp_path / 'curves.png').is_file()


@pytest.mark.slow
def test_a_classifier(tmp_path, figures):
    cfg = load_config(str(ROOT / 'configs' / 'fasternet_t0_digits.py'), work_dir=str(tmp_path))
    cfg.merge_from_dict({'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'randomness.seed': 0,
                         'visualizer.name': str(tmp_path), 'experiment_name': 'test_curves'})
    train(cfg)
    panels = lines_of(figures[-1])
    row, = [row for row in scalars(tmp_path) if 'accuracy/top1' in row]
    assert list(panels['loss']) == ['loss']
    assert panels['metrics above 1']['accuracy/top1'] == [[45, row['accuracy/top1']]]


class Interrupt(Hook):

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == 3:
            signal.raise_signal(signal.SIGTERM)


def test_a_training_that_is_stopped_leaves_it(shapes, tmp_path, figures):
    cfg = shapes_config(shapes, tmp_path)
    cfg.custom_hooks = [dict(type=Interrupt)]
    train(cfg)
    assert (tmp_path / 'stopped.pth').is_file() and (tmp_path / 'curves.png').is_file()
    figure, = figures
    assert [at for at, _ in lines_of(figure)['loss']['loss']] == [1, 2, 3]


def test_it_can_be_left_out(shapes, tmp_path, figures):
    train(shapes_config(shapes, tmp_path, **{'train_cfg.max_epochs': 1, 'mmfasternet.omit': ['CurvesHook']}))
    assert not figures and not (tmp_path / 'curves.png').exists() and (tmp_path / 'iter_4.pth').is_file()


@pytest.mark.slow
def test_a_plot_that_can_not_be_written_is_one_warning(shapes, tmp_path, warnings):
    (tmp_path / 'curves.png' / 'in the way').mkdir(parents=True)
    train(with_validation(shapes, tmp_path))
    line, = warnings
    assert f"'{tmp_path / 'curves.png'}' can't be written: Is a directory. " in line
    assert line.endswith('mmfasternet.omit=[CurvesHook])') and list(losses(tmp_path)) == list(range(1, 9))
    assert not list(tmp_path.glob('.*unfinished'))


@pytest.mark.slow
def test_a_plot_that_fails_is_one_warning(shapes, tmp_path, warnings, monkeypatch):

    def fail(*args):
        raise RuntimeError('no\nfonts')

    monkeypatch.setattr(curves, 'draw', fail)
    train(with_validation(shapes, tmp_path))
    line, = warnings
    assert 'curves.png\' could not be plotted: RuntimeError: no fonts. ' in line and '\n' not in line
    assert list(losses(tmp_path)) == list(range(1, 9))


def test_one_process_plots(shapes, tmp_path, figures, monkeypatch):
    monkeypatch.setattr(curves, 'is_main_process', lambda: False)
    train(shapes_config(shapes, tmp_path, **{'train_cfg.max_epochs': 1}))
    assert not figures and not (tmp_path / 'curves.png').exists()


def hub_of(histories, validations=None):
    hub = MessageHub('test_curves')
    for name, values in histories.items():
        hub.log_scalars[f'train/{name}'] = HistoryBuffer(list(values), [1] * len(values))
    hub.update_info(VALIDATIONS, validations or {})
    return hub


def test_nothing_around_is_changed(tmp_path):
    before = dict(matplotlib.rcParams), matplotlib.get_backend(), pyplot.get_fignums()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    draw(curves_of(hub_of(dict(loss=[1, 2], lr=[3, 4])), 2), 2).savefig(tmp_path / 'curves.png')
    assert (dict(matplotlib.rcParams), matplotlib.get_backend(), pyplot.get_fignums()) == before
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states


@pytest.mark.parametrize('number', [1, 7, 400, 401, 999, 100_003])
def test_long_histories_are_thinned_to_means(number):
    values = np.random.default_rng(0).random(number)
    at, means = thinned(values, number + 5)
    length = -(-number // 400)
    parts = [range(start, min(start + length, number)) for start in range(0, number, length)]
    assert len(at) == len(parts) <= 400
    np.testing.assert_allclose(means, [np.mean([values[i] for i in part]) for part in parts])
    np.testing.assert_allclose(at, [np.mean([i + 1 + 5 for i in part]) for part in parts])  # the last is of done


def test_values_that_are_not_finite_are_gaps(tmp_path):
    nan, inf = float('nan'), float('inf')
    at, means = thinned(np.array([1., nan, 3., -inf, inf]), 5)
    assert at.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(means, [1, nan, 3, nan, nan])
    long = np.where(np.arange(4000) % 10 == 0, nan, 2.)
    assert thinned(long, 4000)[1].tolist() == [2.] * 400
    histories = dict(loss=[nan] * 3, loss_cls=[1, nan, inf], loss_box=[1, 2, 3], lr=[0, 0, 0])
    panels = curves_of(hub_of(histories, {'coco/bbox_mAP': [[2, nan], [3, nan]]}), 3)
    assert list(panels) == ['loss', 'learning rate'] and set(panels['loss']) == {'loss', 'loss_cls', 'loss_box'}
    draw(panels, 1).savefig(tmp_path / 'curves.png')


def test_the_largest_losses_and_what_a_run_is_judged_by():
    histories = dict(loss=[9, 9], **{f's{i}.loss_cls': [0, i / 10] for i in range(8)}, acc=[90, 91], time=[1, 1],
                     lr=[1, 1], base_lr=[2, 2], **{'generator.lr': [3, 3]})
    validations = {
        'a/coco/bbox_mAP': [[1, .2], [2, .3]], 'a/coco/bbox_mAP_50': [[2, .5]], 'a/coco/bbox_mAP_l': [[2, -1.]],
        'b/coco/bbox_mAP': [[2, -1.]], 'b/coco/segm_mAP': [[2, .4]], 'cat_precision': [[2, .7]],
        'accuracy/top1': [[2, 71.]], 'val/loss': [[2, 8.]]}
    panels = curves_of(hub_of(histories, validations), 2)
    assert list(panels['loss']) == ['loss', *(f's{i}.loss_cls' for i in range(7, 2, -1)), 'val/loss (validation)']
    assert list(panels['learning rate']) == ['lr', 'base_lr', 'generator.lr']
    assert list(panels['metrics']) == ['a/coco/bbox_mAP', 'b/coco/segm_mAP', 'a/coco/bbox_mAP_50']
    assert list(panels['metrics above 1']) == ['accuracy/top1']
    lvis = curves_of(hub_of({}, {f'lvis/bbox_{name}': [[2, .5]] for name in ('AP', 'AP50', 'APr', 'AR@300')}), 2)
    assert list(lvis['metrics']) == ['lvis/bbox_AP', 'lvis/bbox_AP50']
    # A run that has none of those shows what it has.
    other = curves_of(hub_of({}, {'single-label/f1-score': [[2, .5]], 'a $b$ $': [[2, .5]]}), 2)
    assert list(other) == ['metrics'] and len(other['metrics']) == 2
    assert [text.get_text() for text in draw(other).axes[0].get_legend().get_texts()][1] == r'a \$b\$ \$'


def test_a_long_training_is_a_small_file(tmp_path):
    noise = np.random.default_rng(0).lognormal(0, .5, (6, 200_000)) / np.arange(1, 7)[:, None] ** 2
    hub = hub_of({**dict(zip(LOSSES, noise)), 'lr': np.linspace(1e-3, 0, 200_000)},
                 {'coco/bbox_mAP': [[1000 * i, i / 300] for i in range(1, 201)]})
    draw(curves_of(hub, 200_000), 1000).savefig(tmp_path / 'curves.png', pil_kwargs=dict(optimize=True))
    assert (tmp_path / 'curves.png').stat().st_size < 110_000


def test_what_it_needs_is_in_checkpoints(trained):
    hub = read_checkpoint(str(trained / 'epoch_2.pth'))['message_hub']
    assert (trained / 'curves.png').is_file() and len(hub['log_scalars']['train/loss'].data[0]) == 4
