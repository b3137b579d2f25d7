"""The checkpoints in a work folder: finds the newest, and writes one when a training stops between two."""

import os
import re
from pathlib import Path
from typing import List, Optional, Union

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmfasternet.files import write_atomically

#: The file of a training that was stopped between two regular checkpoints.
STOPPED = 'stopped.pth'
#: The file in a work folder with the path of its newest checkpoint, as MMEngine has it.
POINTER = 'last_checkpoint'
#: ``backend_args`` of local files that are written atomically; see ``engine/hooks/checkpoint.py``.
ATOMIC = dict(backend='mmfasternet.atomic')


def save_stopped(runner: Runner, epoch: int, iteration: int) -> str:
    """Write the state of a training that stops between two checkpoints, and record it as the newest.

    Args:
        runner: The runner.
        epoch: Number of complete epochs.
        iteration: Number of complete iterations.

    Returns:
        The path of :data:`STOPPED` in the folder of the checkpoints.

    Raises:
        UserError: If it can't be written.
    """
    hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    folder = hook.out_dir if hook else runner.work_dir
    backend_args = (hook.backend_args if hook else None) or (None if '://' in str(folder) else ATOMIC)
    runner.save_checkpoint(folder, STOPPED, meta=dict(epoch=epoch, iter=iteration), backend_args=backend_args)
    path = os.path.join(folder, STOPPED)
    if is_main_process():
        write_atomically(Path(runner.work_dir) / POINTER, path.encode())
    barrier()  # a launcher may end all processes as soon as one ends
    return path


def saved_trainings(work_dir: Union[str, Path], out_dir: Optional[str] = None) -> List[str]:
    """Paths of a work folder's checkpoints, the newest first.

    Args:
        work_dir: The work folder.
        out_dir: The folder of the ``CheckpointHook``, which appends the work
            folder's name. Defaults to None.
    """
    folders = [Path(work_dir)]
    if out_dir and '://' not in out_dir:
        folders.append(Path(out_dir) / Path(work_dir).name)
    paths = sorted((path for folder in folders for path in folder.glob('*.pth')
                    if not path.name.startswith(('.', 'best_')) and path.exists()), key=_time_of, reverse=True)
    pointer = folders[0] / POINTER
    if pointer.is_file() and pointer.read_text().strip():
        named = pointer.read_text().strip()
        here = next((path for path in paths if path.name == Path(named).name), None)
        if here:  # recorded paths are absolute, but the folder may have been moved or copied
            named = str(here)
        if '://' in named or Path(named).is_file():
            # Complete checkpoints of a process that was killed before it could record them. Numbers count as well as
            # times, because a copy of the folder may have any times; the file of a stopped training has no number.
            later = [str(path) for path in paths if _time_of(path) > _time_of(pointer)
                     and _number_of(path) > _number_of(named) >= 0]
            return list(dict.fromkeys([*later, named, *map(str, paths)]))
    return [str(path) for path in paths]


def _time_of(path: Path) -> float:
    return path.stat().st_mtime


def _number_of(path: Union[str, Path]) -> int:
    """Its epoch or iteration, -1 if its name has none."""
    digits = re.search(r'_(\d+)$', Path(path).stem)
    return int(digits[1]) if digits else -1
