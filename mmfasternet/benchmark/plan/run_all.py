"""Runs the steps of the plan, each in a process with a time limit, and continues where an earlier run stopped."""

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

import torch

from mmfasternet.benchmark.plan.steps import STEPS, Bench, Step
from mmfasternet.engine.device import set_threads
from mmfasternet.errors import ArgumentError, UserError
from mmfasternet.files import write_atomically

STATE, LOGS, DONE = 'steps.json', 'logs', 'done'
_NOT_ALL, _BAD_FORK = 3, 4  # exit status of a step without time for some of its suites; of one that can't use the GPU


def run_all(device: Optional[str],
            out: Path,
            seconds: float,
            small: bool = False,
            only: Sequence[str] = ()) -> Dict[str, str]:
    """Run the steps of :mod:`mmfasternet.benchmark.plan.steps`.

    Each runs in its own process, which on a GPU is stopped at the step's limit; a failed step does not stop the others.
    With the same folder, successful steps are not run again, and suites continue from their records.

    The processes are forks of this one, so that libraries are imported once: it must not have used several threads for
    computing. If it has used a GPU, the steps run in new processes instead of forks, which can't use one then.

    Args:
        device: Such as ``'cuda:0'``. Defaults to None, the first GPU if any.
        out: Folder for the results.
        seconds: Time limit for all steps.
        small: Whether to only try out every step. Defaults to False.
        only: Names of the steps to run. Defaults to all.

    Returns:
        The outcome of each step, by its name.

    Raises:
        ArgumentError: If a step is unknown.
        UserError: If the folder holds measurements with other settings.
    """
    start = time.monotonic()
    known = [step.name for step in STEPS]
    for name in only:
        if name not in known:
            raise ArgumentError(f"there is no step '{name}': it must be one of {', '.join(known)}")
    on_gpu = device.startswith('cuda') if device else torch.cuda.is_available()
    limited = on_gpu and not small  # on a CPU the warm-up calls take minutes
    (out / LOGS).mkdir(parents=True, exist_ok=True)
    ended, method = _state(out, small)
    for step in STEPS:
        if (only and step.name not in only) or ended.get(step.name, '').startswith(DONE):
            continue
        left = seconds - (time.monotonic() - start)
        if left < (1 if small else step.least):
            ended[step.name] = 'no time left'
        else:
            limit = min(step.most, left) if limited else left
            outcome = _run(method, step, device, out, small, limit)
            if outcome is None:
                method = 'spawn'
                outcome = _run(method, step, device, out, small, limit)
            ended[step.name] = str(outcome)
        print(f'[{time.monotonic() - start:5.0f} s] {step.name}: {ended[step.name]}', flush=True)
        content = dict(small=small, method=method, steps=ended)
        write_atomically(out / STATE, (json.dumps(content, indent=1) + '\n').encode())
    return ended


def _state(out: Path, small: bool) -> Tuple[Dict[str, str], str]:
    """Outcomes of steps, and the start method of their processes."""
    try:
        content = json.loads((out / STATE).read_text())
        if content['small'] != small:
            raise UserError(f"'{out}' holds a run with the other --size: name another folder with --out")
        return content['steps'], content['method']
    except FileNotFoundError:
        return {}, 'fork'
    except (ValueError, KeyError, TypeError):
        raise UserError(f"'{out / STATE}' can't be read: remove it, or name another folder with --out") from None


def _run(method: str, step: Step, device: Optional[str], out: Path, small: bool, limit: float) -> Optional[str]:
    """Run a step in its own process; returns its outcome, or None if it is a fork that can't use the GPU."""
    start = time.monotonic()
    process = multiprocessing.get_context(method).Process(  # type: ignore[attr-defined]
        target=_in_process, args=(step, device, out, small, start + limit), name=step.name)
    sys.stdout.flush()
    process.start()
    try:
        process.join(limit)
    finally:
        late = process.is_alive()
        _stop(process)
    took = f'{time.monotonic() - start:.0f} s'
    if late:
        return f'stopped at its limit, {took}'
    if process.exitcode == _BAD_FORK and method == 'fork':
        return None
    if process.exitcode == _NOT_ALL:
        return f'incomplete, out of time, in {took}'
    if process.exitcode:
        return f"failed with {process.exitcode} after {took}: see {out / LOGS / f'{step.name}.log'}"
    return f'{DONE} in {took}'


def _in_process(step: Step, device: Optional[str], out: Path, small: bool, deadline: float) -> None:
    os.setpgid(0, 0)  # so that its children are stopped with it
    with open(out / LOGS / f'{step.name}.log', 'a', buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        code = 1
        try:
            if not (device or 'cuda').startswith('cpu') and _in_bad_fork():
                os._exit(_BAD_FORK)
            set_threads()
            bench = Bench(device, out, small, deadline)
            step.run(bench)
            code = _NOT_ALL if bench.skipped else 0
        except BaseException:
            traceback.print_exc()
        finally:
            log.flush()
            os._exit(code)  # skips the parent's clean-up


def _in_bad_fork() -> bool:
    """Whether this is a fork of a process that has used a GPU."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:  # also without a GPU, and with a PyTorch without CUDA
        return 'forked' in str(error)
    return False


def _stop(process: Any) -> None:
    """Stop a process and its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:  # it has not begun, and has no group of its own
                os.kill(process.pid, number)
        process.join(3)
