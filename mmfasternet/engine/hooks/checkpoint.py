"""Checkpoints that are there whole or not at all, with the one before kept until then."""

import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Union

from mmengine.dist import barrier, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import Runner

from mmfasternet.errors import UserError
from mmfasternet.files import remove_unfinished, write_atomically
from mmfasternet.registry import HOOKS

#: The file of a training that was stopped between two regular checkpoints.
STOPPED = 'stopped.pth'
#: The file in a work folder with the path of its newest checkpoint, as MMEngine has it.
POINTER = 'last_checkpoint'


class AtomicBackend(LocalBackend):
    """MMEngine's local files, written whole or not at all."""

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write bytes to ``filepath``, whose folder is made.

        Raises:
            UserError: If the disk is full, or the folder can't be written to.
        """
        try:
            Path(filepath).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(filepath, obj)
        except OSError as error:
            raise UserError(f"'{filepath}' can't be written: {error.strerror or error}. What was there before is left "
                            f'as it is: make room, then go on with --resume') from None


@contextmanager
def atomic_files() -> Iterator[None]:
    """Within it, MMEngine writes local files, checkpoints among them, by :class:`AtomicBackend`."""
    register_backend('local', AtomicBackend, force=True, prefixes='')
    try:
        yield
    finally:
        register_backend('local', LocalBackend, force=True, prefixes='')


class _RemovingLater:
    """A file backend that collects what is to be removed."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.removed: List[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.removed.append(path)

    rmtree = remove


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's ``CheckpointHook`` that removes old checkpoints once the new one is written, not before.

    Args:
        See :class:`mmengine.hooks.CheckpointHook`.
    """
    file_backend: Any

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if is_main_process() and '://' not in str(self.out_dir):
            remove_unfinished(self.out_dir)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: Dict[str, Any]) -> None:
        with self._removing_afterwards():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: Dict[str, Any]) -> None:
        with self._removing_afterwards():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_afterwards(self) -> Iterator[None]:
        backend: Any = self.file_backend
        later = _RemovingLater(backend)
        self.file_backend = later
        try:
            yield
        finally:
            self.file_backend = backend
        written = [self.last_ckpt, getattr(self, 'best_ckpt_path', None),
                   *getattr(self, 'best_ckpt_path_dict', {}).values()]
        stopped = backend.join_path(self.out_dir, STOPPED)  # this one is newer
        if is_main_process() and self.last_ckpt and backend.isfile(stopped):
            later.removed.append(stopped)
        for path in later.removed:
            if path not in written:
                (backend.rmtree if backend.isdir(path) else backend.remove)(path)


def use_atomic_checkpoints(cfg: Any) -> None:
    """Have a config save by :class:`CheckpointHook`."""
    hooks = dict(cfg.get('default_hooks') or {})
    hook = hooks.get('checkpoint', dict(interval=1))
    if hook is not None and hook.get('type', 'CheckpointHook') in ('CheckpointHook', MMEngineCheckpointHook):
        cfg.default_hooks = dict(hooks, checkpoint=dict(hook, type='mmfasternet.CheckpointHook'))


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
    hook = next((hook for hook in runner.hooks if isinstance(hook, MMEngineCheckpointHook)), None)
    folder = hook.out_dir if hook else runner.work_dir
    runner.save_checkpoint(
        folder, STOPPED, meta=dict(epoch=epoch, iter=iteration), backend_args=hook.backend_args if hook else None)
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
        if here:  # the folder may have been moved or copied, and whole paths are noted
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
