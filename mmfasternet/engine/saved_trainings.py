"""The checkpoints in a work folder: which is the newest, and one more when a training stops between two."""

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
    """Write the state of a training that stops between two checkpoints, and name it as the newest.

    Args:
        runner: The runner.
        epoch: Epochs that are complete.
        iteration: Iterations that are.

    Returns:
        The file, :data:`STOPPED` in the folder of the checkpoints.

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
    barrier()  # who launched the processes may end all as soon as one does
    return path


def saved_trainings(work_dir: Union[str, Path], out_dir: Optional[str] = None) -> List[str]:
    """Paths of a work folder's checkpoints, the newest first.

    Args:
        work_dir: The work folder.
        out_dir: The ``CheckpointHook``'s, which adds the work folder's name.
            Defaults to None.
    """
    folders = [Path(work_dir)]
    if out_dir and '://' not in out_dir:
        folders.append(Path(out_dir) / Path(work_dir).name)
    paths = sorted((path for folder in folders for path in folder.glob('*.pth')
                    if not path.name.startswith(('.', 'best_'))), key=_time_of, reverse=True)
    pointer = folders[0] / POINTER
    if pointer.is_file() and pointer.read_text().strip():
        named = pointer.read_text().strip()
        here = next((path for path in paths if path.name == Path(named).name), None)
        if here:  # the folder may have been moved or copied, and full paths are noted
            named = str(here)
        if '://' in named or Path(named).is_file():
            # Those that were completed, and then the process was killed before it could name them. Numbers have to tell
            # as well, since a copy of the folder may have any times; a stopped training's has none.
            later = [str(path) for path in paths if _time_of(path) > _time_of(pointer)
                     and _number_of(path) > _number_of(named) >= 0]
            return list(dict.fromkeys([*later, named, *map(str, paths)]))
    return [str(path) for path in paths]


def _time_of(path: Path) -> float:
    return path.stat().st_mtime


def _number_of(path: Union[str, Path]) -> int:
    """Of its epoch or iteration, -1 where its name has none."""
    digits = re.search(r'_(\d+)$', Path(path).stem)
    return int(digits[1]) if digits else -1
