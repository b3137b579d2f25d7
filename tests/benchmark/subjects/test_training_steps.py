import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from mmfasternet.benchmark.harness.conditions import Conditions
from mmfasternet.benchmark.harness.records import LatencyRecord
from mmfasternet.benchmark.harness.suite import run_suite
from mmfasternet.benchmark.subjects.training_steps import (
    NUM_OBJECTS,
    loss_curve,
    random_training_batch,
    read_losses,
    training_entry,
    training_report,
    write_losses,
)
from mmfasternet.engine.config import load_config
from mmfasternet.engine.speedups import SpeedUps
from mmfasternet.errors import UserError
from tests.conftest import ROOT, SHAPES_CONFIG, data_options

CPU = torch.device('cpu')


@pytest.fixture
def cfg(shapes):
    return load_config(str(SHAPES_CONFIG), dict(option.split('=', 1) for option in data_options(shapes)))


def test_random_batches_look_like_the_training_pipelines():
    batch = random_training_batch((64, 96), 3)
    assert len(batch['inputs']) == len(batch['data_samples']) == 3 and batch['inputs'][0].shape == (3, 64, 96)
    for sample in batch['data_samples']:
        objects = sample.gt_instances
        assert objects.masks.masks.shape == (NUM_OBJECTS, 64, 96) and objects.labels.tolist() == [0] * NUM_OBJECTS
        for (x1, y1, x2, y2), mask in zip(objects.bboxes.tolist(), objects.masks.masks):
            assert 0 <= x1 < x2 <= 96 and 0 <= y1 < y2 <= 64
            assert mask.sum() == pytest.approx(torch.pi / 4 * (x2 - x1) * (y2 - y1), rel=0.25)  # an ellipse


def test_a_step_is_a_complete_one_and_keeps_the_weights(cfg, monkeypatch):
    built, rois, moves = [], [], []

    def look(model, optim_wrapper):
        built.extend([model, build_optim_wrapper(model, optim_wrapper)])
        return built[1]

    monkeypatch.setattr('mmfasternet.benchmark.subjects.training_steps.build_optim_wrapper', look)
    entry = training_entry(cfg, 'shapes', CPU, SpeedUps(channels_last=True), (128, 160), 2)
    assert entry.name == 'shapes, channels-last'
    assert (entry.conditions.memory_format, entry.conditions.form) == ('NHWC', 'channels-last')
    subject = entry.build()
    model, optimizer = built
    model.roi_head.mask_head.register_forward_pre_hook(lambda module, inputs: rois.append(len(inputs[0])))
    model.rpn_head.register_forward_hook(lambda module, inputs, outputs: moves.extend(outputs[1]))
    before = {name: p.clone() for name, p in model.named_parameters()}
    batch, = [cell.cell_contents for cell in subject.function.__closure__ if isinstance(cell.cell_contents, dict)]
    masks = [sample.gt_instances.masks.masks.copy() for sample in batch['data_samples']]
    with torch.no_grad():  # as in a suite
        subject.function()
        subject.function()
    assert all((sample.gt_instances.masks.masks == mask).all() for sample, mask in zip(batch['data_samples'], masks))
    assert model.training and all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert {int(state['step']) for state in optimizer.optimizer.state.values()} == {2}
    assert rois == [2 * 16] * 2  # half of 32 samples of each image are positive
    assert moves and not any(move.any() for move in moves)  # anchors stay where they are, whatever the backbone
    for layer in (model.rpn_head.rpn_cls, model.rpn_head.rpn_reg):  # which learn all the same
        assert optimizer.optimizer.state[layer.weight]['exp_avg'].any()


@pytest.mark.slow
def test_forms_are_measured_side_by_side(cfg):
    entries = [training_entry(cfg, 'shapes', CPU, SpeedUps.parse(form), (64, 96), 1)
               for form in ('plain', 'channels-last')]
    records = run_suite(entries, CPU, rounds=2)
    assert [record.conditions.form for record in records] == ['plain', 'channels-last']
    assert all(record.runs == 2 and record.conditions.images == 'random' for record in records)


def test_amp_is_for_gpus(cfg):
    with pytest.raises(UserError, match='mixed precision in bfloat16 needs a GPU'):
        training_entry(cfg, 'shapes', CPU, SpeedUps(amp='bfloat16'))


@pytest.mark.parametrize('form, dtype', [('float16', torch.float16), ('bfloat16+channels-last', torch.bfloat16),
                                         ('channels-last', torch.float32)])
def test_conditions_name_the_type(cfg, monkeypatch, form, dtype):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    entry = training_entry(cfg, 'shapes', torch.device('cuda'), SpeedUps.parse(form))
    assert (entry.conditions.dtype, entry.conditions.form) == (dtype, form) and not entry.conditions.compiled


def test_compiling_is_a_condition_of_its_own(cfg):
    conditions = training_entry(cfg, 'shapes', CPU, SpeedUps.parse('channels-last+compile')).conditions
    assert (conditions.form, conditions.compiled) == ('channels-last', True)


def test_the_model_is_built_once(cfg, monkeypatch):
    built = []
    original = MODELS.build
    monkeypatch.setattr(MODELS, 'build', lambda model, *args, **kwargs: built.append(model.get('type')) or original(
        model, *args, **kwargs))
    training_entry(cfg, 'shapes', CPU, SpeedUps(), (64, 96), 1).build()
    assert built.count('MaskRCNN') == 1
    cfg.model.backbone.arch = 't9'
    with pytest.raises(UserError, match='t9'):
        training_entry(cfg, 'shapes', CPU, SpeedUps()).build()


def test_a_classifier_is_refused():
    cfg = load_config(str(ROOT / 'configs' / 'fasternet_t0_digits.py'))
    with pytest.raises(UserError, match='classifier'):
        training_entry(cfg, 'digits', CPU, SpeedUps())


@pytest.mark.slow
def test_curves_are_those_of_the_trainings(cfg):
    cfg.train_dataloader.batch_size = 4
    plain, again = loss_curve(cfg, SpeedUps(), 3), loss_curve(cfg, SpeedUps(), 3)
    other = loss_curve(cfg, SpeedUps(channels_last=True), 3)
    assert len(plain) == 3 and plain[0] == again[0] and plain == pytest.approx(again, rel=1e-3)
    assert other == pytest.approx(plain, rel=0.02) and other != plain
    assert loss_curve(cfg, SpeedUps(), 1, seed=1)[0] != pytest.approx(plain[0], rel=1e-4)
    with pytest.raises(UserError, match='trains for 2 steps, fewer than the 3'):
        cfg.train_cfg.max_epochs = 1
        loss_curve(cfg, SpeedUps(), 3)


def record(name, milliseconds, **options):
    return LatencyRecord(name, Conditions(((8, 8), ), 2, form='plain'), times_ms=(milliseconds, ) * 3, **options)


def test_curves_are_kept_beside_the_records(tmp_path):
    losses = {'a': {'plain': [2., 1.], 'compile': [2., 1.1]}}
    write_losses({}, tmp_path)
    assert read_losses(tmp_path) == {} and not list(tmp_path.iterdir())
    write_losses(losses, tmp_path)
    assert read_losses(tmp_path) == losses


def test_report(tmp_path):
    records = [record('a, plain', 400., memory_mb=100.), record('a, bfloat16', 200.),
               record('b, plain', 100., error='out of memory')]
    losses = {'a': {'plain': [2.] * 9 + [1.], 'bfloat16': [2.] * 9 + [1.03], 'plain, another seed': [2.] * 10}}
    report = training_report(records, losses)
    speed, loss = report.tables
    assert [row['images/s'] for row in speed.rows[:2]] == [5., 10.] and speed.rows[1]['speed-up'] == 2
    assert [round(row['difference (%)'], 2) for row in loss.rows] == [0, 1., 33.33]
    assert 'b, plain was not measured: out of memory' in report.notes
    assert {path.name for path in report.write(tmp_path)} == {
        'report.md', 'report.html', 'training.csv', 'loss-of-a.csv', 'loss-of-a.png'}
