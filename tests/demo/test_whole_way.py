"""The demo, on little data: what it says is there, and the screen and the page say it."""

import json
import re
from pathlib import Path

import cv2
import pytest

from mmfasternet.demo.outcome_page import PAGE, print_outcome, write_outcome_page
from mmfasternet.demo.whole_way import go_the_whole_way
from mmfasternet.engine import train_test
from mmfasternet.engine.config import load_config
from mmfasternet.engine.loops import TrainingStopped
from mmfasternet.errors import UserError
from tests.conftest import data_options


def configs(shapes, folder):
    """The demo's, made short."""
    seed = {'randomness.seed': 0, 'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1}
    digits = load_config('fasternet_t0_digits', {**seed, 'train_dataloader.dataset.split': 'test'},
                         str(folder / 'digits'))
    detector = load_config('mask_rcnn_fasternet_t0_shapes', {
        **seed, 'train_dataloader.batch_size': 4, **dict(option.split('=', 1) for option in data_options(shapes))},
        str(folder))
    return digits, detector


@pytest.fixture(scope='module')
def outcome(shapes, tmp_path_factory):
    parent = tmp_path_factory.mktemp('demo')
    digits, detector = configs(shapes, parent / '..' / parent.name / 'work')
    before = detector.to_dict()
    outcome = go_the_whole_way(digits, detector, pictures=2, rounds=2)
    assert detector.to_dict() == before  # the caller's config stays
    return outcome


def test_what_is_said_is_there(outcome):
    folder = Path(outcome.folder)
    assert (folder / outcome.weights).is_file() and 0 <= outcome.top1 <= 100 and outcome.seed == 0
    assert set(outcome.ap) == set(outcome.latency) == {'as trained', 'inference form'}
    assert outcome.ap['as trained'] == pytest.approx(outcome.ap['inference form'], abs=1e-3)
    assert all(ms > 0 for ms in outcome.latency.values()) and len(outcome.seconds) == 6
    assert json.loads((folder / 'outcome.json').read_text())['ap'] == outcome.ap
    assert len(outcome.pictures) == len(outcome.curves) == 2
    for path in outcome.pictures:
        assert cv2.imread(str(folder / path)).shape == (576, 1152, 3)  # enlarged, the truth on the left
    assert all((folder / path).is_file() for path in outcome.curves)


def test_the_screen_and_the_page_say_it(outcome, capsys):
    outcome.ap['as trained'] = dict(box=.6321, mask=.6049)
    path = write_outcome_page(outcome)
    page = path.read_text()
    for text in ('0.632 / 0.605', f'{outcome.top1:.1f} %', f"{outcome.latency['inference form']:.1f} ms"):
        assert text in page
    shown = re.findall(r'src="([^"]+)"', page)
    assert shown == [*outcome.pictures, *outcome.curves] and all((path.parent / place).is_file() for place in shown)
    print_outcome(outcome)
    screen = capsys.readouterr().out
    assert '0.632 / 0.605' in screen and PAGE in screen and outcome.weights in screen and 'curves.png' in screen
    assert len(screen.splitlines()) <= 24


def test_a_training_that_is_stopped_ends_it(shapes, tmp_path, monkeypatch):
    def stop(*_):
        raise TrainingStopped('stopped')

    monkeypatch.setattr(train_test.Runner, 'call_hook', lambda self, name, **kwargs: (
        stop() if name == 'after_train_iter' else None))
    with pytest.raises(UserError, match='was stopped'):
        go_the_whole_way(*configs(shapes, tmp_path))
    assert not (tmp_path / 'outcome.json').exists()
