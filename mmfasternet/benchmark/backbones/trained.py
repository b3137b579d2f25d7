"""Trainings to compare: each in its own process, as by ``mmfasternet train``, with a record of its result."""

import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from mmengine.config import Config
from mmengine.device import get_device

import mmfasternet
from mmfasternet.benchmark.harness.conditions import loaded_versions, name_of
from mmfasternet.benchmark.harness.records import locked_folder, read_lines
from mmfasternet.benchmark.harness.suite import progress_bar
from mmfasternet.checkpoints import read_checkpoint
from mmfasternet.engine.config import config_digest
from mmfasternet.engine.saved_trainings import saved_trainings
from mmfasternet.errors import UserError
from mmfasternet.files import write_atomically

#: Records of trainings in the folder of a comparison, one JSON object a line.
TRAININGS = 'trainings.jsonl'
#: What a training prints, in its folder.
OUTPUT = 'output.log'
# The entries of a config that a training depends on.
_DECIDE = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'custom_hooks', 'load_from',
           'auto_scale_lr', 'val_dataloader', 'val_evaluator')
#: Values, each with the iteration that it is of.
Curve = Sequence[Tuple[int, float]]


@dataclass(frozen=True)
class Training:
    """A training to compare.

    Attributes:
        name: Name of its config.
        config: The config.
        seed: Seed of weights and data.
        flags: Flags of ``mmfasternet train``, such as ``--channels-last``.
    """
    name: str
    config: Config
    seed: int
    flags: Tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of the config, which distinguishes configs of the same name."""
        return config_digest(self.config, *_DECIDE)

    def folder(self, root: Union[str, Path]) -> Path:
        """Its work folder."""
        return Path(root) / self.name / f'seed-{self.seed}'


@dataclass(frozen=True)
class Trained:
    """Result of a training.

    Attributes:
        name: Name of its config.
        seed: Its seed.
        digest: Hash of its config, to distinguish configs of the same name.
        iterations: Number of iterations.
        seconds: Time of the iterations, including data loading, without
            validations and the start.
        metrics: Metrics of the last validation, by MMEngine's names.
        curves: The loss, and each metric, over iterations.
        flags: Flags of ``mmfasternet train``.
        device: Name of the processor.
        versions: Versions of the libraries.
    """
    name: str
    seed: int
    digest: str
    iterations: int
    seconds: float
    metrics: Mapping[str, float]
    curves: Mapping[str, Curve]
    flags: Tuple[str, ...] = ()
    device: str = ''
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> 'Trained':
        """Create a record from the output of ``vars``.

        Raises:
            KeyError: If curves or flags are missing.
            TypeError: If another field is missing, or a field is unknown.
        """
        curves = {name: [(int(at), float(value)) for at, value in curve] for name, curve in content['curves'].items()}
        return cls(**{**content, 'curves': curves, 'flags': tuple(content['flags'])})


def read_trained(folder: Union[str, Path]) -> List[Trained]:
    """The records in the folder of a comparison; none if it has no file of them.

    Raises:
        UserError: If a line is not a record.
    """
    return read_lines(Path(folder) / TRAININGS, Trained.from_dict, 'training')


def train_all(trainings: Sequence[Training], work_dir: Union[str, Path], out: Union[str, Path]) -> List[Trained]:
    """Train each training without a record, one after the other.

    An interrupted training is resumed from its last checkpoint. Its output
    goes to a file in its folder.

    Args:
        trainings: The trainings.
        work_dir: Folder for checkpoints and logs: a folder for each.
        out: Folder for ``trainings.jsonl``, rewritten atomically after each.

    Returns:
        The records, in the order of the trainings.

    Raises:
        UserError: If one fails or is stopped, a record or a work folder
            belongs to another config of the same name, or another process
            writes to ``out``.
    """
    with locked_folder(out), progress_bar() as progress:
        records = {(record.name, record.seed): record for record in read_trained(out)}
        for each in trainings:
            found = records.get((each.name, each.seed))
            if found and (found.digest, found.flags) != (each.digest, each.flags):
                raise UserError(f"'{Path(out) / TRAININGS}' holds a training of another config named {each.name}, of "
                                'an earlier version of this config, or with other flags: name another folder with '
                                '--out')
        task = progress.add_task('training', total=float(len(trainings)))
        for index, each in enumerate(trainings):
            if (each.name, each.seed) not in records:
                progress.update(task, description=f'training {each.name}, seed {each.seed}')
                record = _trained(each, work_dir, lambda share, done=index:  # type: ignore[misc]
                                  progress.update(task, completed=done + share))
                records[each.name, each.seed] = record
                _write(out, records.values())
                progress.console.print(f'{each.name}, seed {each.seed}: ' + ', '.join(
                    f'{metric} {value:.3f}' for metric, value in record.metrics.items() if metric.endswith('mAP')))
            progress.update(task, completed=index + 1)
    return [records[each.name, each.seed] for each in trainings]


def newest_checkpoint(cfg: Config, folder: Path) -> Optional[str]:
    """The newest checkpoint of a config's training in its work folder; None if there is none."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    return next(iter(saved_trainings(folder, hook.get('out_dir'))), None)


def _trained(each: Training, work_dir: Union[str, Path], report_progress: Callable[[float], Any]) -> Trained:
    folder = each.folder(work_dir)
    taken = f"another process trains in '{folder}': wait for it, end it, or name another folder with --work-dir"
    with locked_folder(folder, taken) as lock:
        _claim(folder, each)
        _run(each, folder, lock, report_progress)
        return _record(each, folder)


def _run(each: Training, folder: Path, lock: int, report_progress: Callable[[float], Any]) -> None:
    """Train in a separate process.

    The process also holds the lock of its folder: if the parent is killed, no
    other process can train there.

    Raises:
        UserError: If it fails.
    """
    config = folder.parent / f'{each.name}.py'
    write_atomically(config, _config(each).pretty_text.encode())
    command = [sys.executable, '-m', 'mmfasternet', 'train', str(config), '--work-dir', str(folder), '--resume',
               *each.flags, '--cfg-options', f'randomness.seed={each.seed}']
    total = length_of(each.config)
    with open(folder / OUTPUT, 'ab') as output, _signals_end_us():
        before = output.tell()
        # In its own session: Ctrl-C in a terminal reaches only this process, which then ends the child cleanly.
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=_environment(),
                                   pass_fds=[lock], start_new_session=True)
        try:
            while process.poll() is None:
                time.sleep(1)
                report_progress(_share(folder, total))
        except BaseException:
            process.send_signal(signal.SIGTERM)  # it finishes its iteration and writes a checkpoint
            process.wait()
            raise
    if process.returncode:
        if process.returncode < 0:
            reason = f'it was killed by {signal.Signals(-process.returncode).name}'
        else:
            lines = (folder / OUTPUT).read_bytes()[before:].decode(errors='replace').strip().splitlines()
            reason = (lines or ['no output'])[-1]
        raise UserError(f'the training of {each.name} with seed {each.seed} failed: {reason} (all of its output is in '
                        f"'{folder / OUTPUT}')")


def _config(each: Training) -> Config:
    """Its config; if it counts iterations, MMEngine's record tells the iteration of each validation."""
    cfg = copy.deepcopy(each.config)
    if not length_of(cfg)[0]:
        hooks = cfg.get('default_hooks') or {}
        logger = {'type': 'LoggerHook', **(hooks.get('logger') or {}), 'log_metric_by_epoch': False}
        cfg.default_hooks = {**hooks, 'logger': logger}
    return cfg


@contextmanager
def _signals_end_us() -> Iterator[None]:
    """Within it, SIGTERM and SIGHUP raise exceptions, so that child processes are ended, too."""
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers only there
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in before.items()
              if handler not in (None, signal.SIG_IGN)}  # ignored under nohup
    for number in before:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _claim(folder: Path, each: Training) -> None:
    """Mark a work folder as belonging to a training, or check that it belongs to this training."""
    mark, own = folder / 'digest.json', json.dumps([each.digest, *each.flags])
    if any(folder.iterdir()) and (mark.read_text() if mark.exists() else None) != own:
        raise UserError(f"'{folder}' holds a training of another config named {each.name}, of an earlier version of "
                        'this config, or with other flags: remove it, or name another folder with --work-dir')
    write_atomically(mark, own.encode())


def _record(each: Training, folder: Path) -> Trained:
    """The record of a finished training.

    Raises:
        UserError: If it was stopped before its end, had no validation at the
            end, or logged nothing.
    """
    checkpoint = newest_checkpoint(each.config, folder)
    meta = read_checkpoint(checkpoint)['meta'] if checkpoint else {}
    by_epoch, length = length_of(each.config)
    if meta.get('epoch' if by_epoch else 'iter', 0) < length:
        raise UserError(f'the training of {each.name} with seed {each.seed} was stopped: the same command resumes it '
                        f"from '{folder}'")
    rows = read_scalars(folder)
    losses = {row['iter']: row for row in rows if 'loss' in row}
    step = meta['iter'] // meta['epoch'] if by_epoch else 1
    validations = {row['step'] * step: row for row in rows if 'loss' not in row}
    if not losses:
        raise UserError(f'the training of {each.name} logged no loss in {meta["iter"]} iterations: lower '
                        f'default_hooks.logger.interval')
    if meta['iter'] not in validations:
        raise UserError(f'the training of {each.name} with seed {each.seed} ended without a validation, or was stopped '
                        f"during it while mmfasternet.omit excludes the loop that repeats it: remove '{folder}' to "
                        'train again')
    curves: Dict[str, List[Tuple[int, float]]] = {'loss': [(at, losses[at]['loss']) for at in sorted(losses)]}
    for at in sorted(validations):
        for metric, value in validations[at].items():
            if '/' in metric:
                curves.setdefault(metric, []).append((at, value))
    seconds = sum(row['time'] for row in losses.values()) / len(losses) * meta['iter']
    last = {metric: curve[-1][1] for metric, curve in curves.items() if metric != 'loss'}
    return Trained(each.name, each.seed, each.digest, meta['iter'], seconds, last, curves, each.flags,
                   name_of(torch.device(get_device())), loaded_versions())


def read_scalars(folder: Path) -> List[Dict[str, Any]]:
    """The lines of MMEngine's own record, over all runs of a work folder in order."""
    lines = (line for path in sorted(folder.glob('*/vis_data/scalars.json')) for line in path.read_text().splitlines())
    return [json.loads(line) for line in lines if line.endswith('}')]  # a killed process may leave an incomplete line


def length_of(cfg: Config) -> Tuple[bool, int]:
    """Whether a training counts epochs, and its number of epochs or iterations."""
    by_epoch = 'max_epochs' in cfg.train_cfg
    return by_epoch, cfg.train_cfg.max_epochs if by_epoch else cfg.train_cfg.max_iters


def _share(folder: Path, length: Tuple[bool, int]) -> float:
    """The finished fraction of a training."""
    by_epoch, total = length
    rows = [row for row in read_scalars(folder) if 'loss' in row]
    return min((rows[-1]['epoch'] - 1 if by_epoch else rows[-1]['iter']) / total, 1) if rows else 0.


def _write(out: Union[str, Path], records: Iterable[Trained]) -> None:
    content = ''.join(json.dumps(vars(record)) + '\n' for record in records)
    write_atomically(Path(out) / TRAININGS, content.encode())


def _environment() -> Dict[str, str]:
    """The environment of this process, extended so that the same package is found."""
    own = str(Path(mmfasternet.__file__).resolve().parent.parent)
    return dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, [own, os.environ.get('PYTHONPATH')])))
