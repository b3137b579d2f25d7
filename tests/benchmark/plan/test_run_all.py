import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmfasternet.benchmark.plan import run_all as module
from mmfasternet.benchmark.plan.run_all import DONE, run_all
from mmfasternet.benchmark.plan.steps import STEPS, Step
from mmfasternet.benchmark.plan.summary import summarize, write_reports
from mmfasternet.errors import ArgumentError, UserError
from tests.conftest import ROOT, environment


def good(bench):
    with open(bench.out / 'calls', 'a') as file:
        file.write('x')


def bad(bench):
    raise RuntimeError('no such operator')


def slow(bench):
    started = subprocess.Popen(['sleep', '1000'])
    (bench.out / 'started').write_text(str(started.pid))
    time.sleep(1000)


def partly(bench):
    bench.suite('later', [], 1, least=float('inf'))


def patient(bench):
    raise AssertionError('there is no time for it')


@pytest.fixture
def steps(monkeypatch):
    monkeypatch.setattr(module, 'STEPS', (Step(good, 60, 0), Step(bad, 60, 0), Step(slow, 2, 0), Step(partly, 60, 0),
                                          Step(patient, 60, 1e6)))


def test_each_step_ends_for_itself_and_is_not_done_twice(steps, tmp_path, monkeypatch):
    monkeypatch.setattr(module, '_in_bad_fork', lambda: False)  # whatever ran before in this process
    ended = run_all('cuda:0', tmp_path, 60)  # which none of them looks at
    assert list(ended) == ['good', 'bad', 'slow', 'partly', 'patient']
    assert ended['good'].startswith(DONE) and ended['bad'].startswith('failed with 1')
    assert ended['slow'].startswith('stopped at its limit') and ended['partly'].startswith('incomplete, out of time')
    assert ended['patient'] == 'no time left'
    assert 'no such operator' in (tmp_path / 'logs' / 'bad.log').read_text()
    started = Path('/proc') / (tmp_path / 'started').read_text() / 'cmdline'
    assert not started.exists() or not started.read_text()  # what it started is gone, or a zombie of a container
    again = run_all('cpu', tmp_path, 60, only=['good', 'bad'])
    assert (tmp_path / 'calls').read_text() == 'x' and again['bad'].startswith('failed')
    assert json.loads((tmp_path / 'steps.json').read_text())['steps'] == again
    assert 'good: done' in summarize(tmp_path)


def test_a_step_that_has_not_begun_at_its_limit_is_stopped(monkeypatch, tmp_path):
    """As where importing takes longer: then it has no process group yet."""
    monkeypatch.setattr(module.os, 'setpgid', lambda *group: time.sleep(1000))
    assert module._run('fork', Step(good, 1, 0), 'cpu', tmp_path, True, 0.5).startswith('stopped at its limit')
    assert not multiprocessing.active_children() and not (tmp_path / 'calls').exists()


@pytest.mark.slow
def test_forks_of_a_process_that_has_used_a_gpu_are_new_processes(steps, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, '_is_in_bad_fork', lambda: True)  # gone in a new process
    ended = run_all('cuda:0', tmp_path, 60, only=['good', 'bad'])
    assert ended['good'].startswith(DONE) and ended['bad'].startswith('failed with 1')
    assert (tmp_path / 'calls').read_text() == 'x'
    assert json.loads((tmp_path / 'steps.json').read_text())['method'] == 'spawn'


def test_a_cpu_has_no_limits_but_that_of_all(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(module, '_run', lambda method, step, device, out, small, limit: given.append(limit) or DONE)
    monkeypatch.setattr(module, 'STEPS', (Step(good, 60, 0), ))
    for device in ('cuda:0', 'cpu'):
        run_all(device, tmp_path / device, 1000)
    assert given[0] == 60 and 990 < given[1] <= 1000


def test_unknown_steps_and_folders_of_another_size(steps, tmp_path):
    with pytest.raises(ArgumentError, match="there is no step 'other': it must be one of good, bad"):
        run_all('cpu', tmp_path, 60, only=['other'])
    run_all('cpu', tmp_path, 60, only=['good'])
    with pytest.raises(UserError, match='other --size'):
        run_all('cpu', tmp_path, 60, small=True)
    (tmp_path / 'steps.json').write_text('{')
    with pytest.raises(UserError, match="steps.json' can't be read"):
        run_all('cpu', tmp_path, 60)


def test_steps_are_known_by_their_names():
    assert [step.name for step in STEPS][:3] == ['facts', 'forms', 'table-4'] and len({s.name for s in STEPS}) == 10


@pytest.mark.parametrize('name', ['training/batch-2', 'table-1/eager'])
def test_reports_kept_are_those_of_the_records_kept(tmp_path, name):
    kept = ROOT / 'benchmarks' / 'nvidia-h200'
    shutil.copytree(kept / name, tmp_path / name)
    shutil.copy(kept / 'facts.json', tmp_path)
    (tmp_path / name / 'report.md').unlink()
    page = write_reports(tmp_path).read_text()
    assert (tmp_path / name / 'report.md').read_text() == (kept / name / 'report.md').read_text()
    assert 'NVIDIA H200, 132 multiprocessors' in page and f'({name})' in page


def test_nothing_to_report(tmp_path):
    with pytest.raises(UserError, match='holds no records'):
        write_reports(tmp_path)


@pytest.mark.slow
def test_every_step_on_a_cpu(tmp_path):
    """But the one which compiles for minutes; test_tools.py compiles a training."""
    names = [step.name for step in STEPS if step.name != 'training-compiled']
    result = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'benchmark_all.py', '--out', tmp_path, '--device', 'cpu', '--size', 'small',
         '--minutes', '20', '--steps', *names], capture_output=True, text=True, cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)))
    assert result.returncode == 0, result.stderr[-2000:]
    logs = '\n'.join(path.read_text() for path in (tmp_path / 'logs').iterdir())
    assert all(f'{name}: done' in result.stdout for name in names), result.stdout + logs[-3000:]
    folders = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob('report.md')}
    assert folders == {'forms', 'table-4/float32', 'training/batch-1', 'table-1/eager', 'table-9/eager',
                       'table-3/batch-1', 'backbone-forms/64x64'}
    assert 'forms: mask_rcnn_fasternet_s_1x_coco, deploy' in result.stdout
    assert (tmp_path / 'index.html').read_text().count('<h1>') == 8
