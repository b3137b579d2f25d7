"""Checkpoints that are written atomically; the previous one is kept until the new one is complete."""

from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Union

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import Runner

from mmfasternet.engine.saved_trainings import ATOMIC, STOPPED
from mmfasternet.errors import UserError
from mmfasternet.files import cannot_write, remove_unfinished, write_atomically
from mmfasternet.registry import HOOKS


class AtomicBackend(LocalBackend):
    """MMEngine's local backend with atomic writes. Configs select it with ``backend_args=dict(backend='...')``."""

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write bytes to ``filepath``; its folder is made if missing.

        Raises:
            UserError: If the disk is full, or the folder can't be written to.
        """
        try:
            Path(filepath).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(filepath, obj)
        except OSError as error:
            raise UserError(f"{cannot_write(filepath, error, 'Make it writable')}, then continue with --resume: "
                            'existing files were not changed') from None


register_backend(ATOMIC['backend'], AtomicBackend, force=True)


class _RemovingLater:
    """A file backend that collects files to remove instead of removing them."""

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
    """MMEngine's ``CheckpointHook`` with atomic writes; old checkpoints are removed only afterwards.

    Args:
        See :class:`mmengine.hooks.CheckpointHook`. ``backend_args`` defaults
        to None, which is :class:`AtomicBackend` for a local folder.
    """
    file_backend: Any
    backend_args: Optional[Dict[str, Any]]
    save_best: Optional[List[str]]
    _is_resumed = False

    def __init__(self, *args: Any, backend_args: Optional[Dict[str, Any]] = None, **kwargs: Any) -> None:
        super().__init__(*args, backend_args=backend_args, **kwargs)
        is_local = self.backend_args in (None, dict(backend='local')) and '://' not in str(self.out_dir)
        if is_local and self.file_client_args is None:
            self.backend_args = dict(ATOMIC)

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self._is_resumed = runner.iter > 0
        if is_main_process() and '://' not in str(self.out_dir):
            remove_unfinished(self.out_dir)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: Dict[str, Any]) -> None:
        with self._removing_afterwards():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: Dict[str, Any]) -> None:
        missing = [name for name in self.save_best or [] if name != 'auto' and name not in metrics]
        kinds = {name.partition('/')[0] for name in metrics}
        if missing and '/' in missing[0] and missing[0].partition('/')[0] not in kinds:
            runner.logger.warning(f"the validation gives no {missing[0]}, only {', '.join(metrics)}: the best "
                                  'checkpoint is not saved this time. A detector that finds nothing has no AP')
            return
        if missing:
            raise UserError(f"default_hooks.checkpoint.save_best is '{missing[0]}', which the validation does not "
                            f"give: it must be 'auto' or one of {', '.join(metrics)}")
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
        # The new one is further than where this run went on from. A run that starts anew may be a try from its weights.
        stopped = backend.join_path(self.out_dir, STOPPED)
        if self._is_resumed and is_main_process() and self.last_ckpt and backend.isfile(stopped):
            later.removed.append(stopped)
        for path in later.removed:
            if path not in written:
                (backend.rmtree if backend.isdir(path) else backend.remove)(path)
