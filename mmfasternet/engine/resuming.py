"""Going on from where a training was interrupted, in the middle of an epoch, too."""

import itertools
import logging
from typing import Any, Dict, Iterable, Optional, Tuple

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop as MMEngineEpochBasedTrainLoop
from torch.utils.data import DataLoader

from mmfasternet.checkpoints import load_for_mmengine
from mmfasternet.engine.saving import saved_trainings
from mmfasternet.errors import CheckpointError
from mmfasternet.registry import LOOPS

#: What a checkpoint holds that a training can go on from.
TRAINING_STATE = {'meta', 'message_hub', 'optimizer'}


def set_resume(cfg: Config, resume: str) -> None:
    """Go on from a checkpoint, with the seed it was trained with.

    Args:
        cfg: The config, changed in place.
        resume: Path or URL; or ``'auto'``, the newest checkpoint of the work
            folder that is whole. Without one there, training starts anew.

    Raises:
        CheckpointError: If a checkpoint that is named is broken, or none of
            the work folder's is whole.
    """
    if resume == 'auto':
        found = _newest(cfg.work_dir)
        cfg.resume = bool(found)
        if not found:
            print_log(f"no checkpoint in '{cfg.work_dir}' yet: training starts anew", 'current', logging.WARNING)
            return
        resume, content = found
    else:
        content = _read(resume)
    cfg.resume, cfg.load_from = True, resume
    seed = content['meta'].get('seed')
    if seed is not None:
        # MMEngine takes it over as well, but only after it has shuffled the data by another.
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)


def _newest(work_dir: str) -> Optional[Tuple[str, Dict[str, Any]]]:
    problems = []
    for path in saved_trainings(work_dir):
        try:
            content = _read(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            print_log(f'{problem}. Going on from {path}', 'current', logging.WARNING)
        return path, content
    if problems:
        raise CheckpointError(f"no checkpoint in '{work_dir}' can be resumed: {problems[0]}")
    return None


def _read(path: str) -> Dict[str, Any]:
    content = load_for_mmengine(path)
    if not set(content) >= TRAINING_STATE:
        raise CheckpointError(f"checkpoint '{path}' holds weights, and no training that can be resumed here. "
                              f'Start from it with --cfg-options load_from=PATH')
    return content


@LOOPS.register_module()
class EpochBasedTrainLoop(MMEngineEpochBasedTrainLoop):
    """MMEngine's ``EpochBasedTrainLoop`` that goes on in the middle of an epoch.

    MMEngine would begin the epoch anew, and do more iterations than the
    schedule has. Here the batches that were trained on are left out, without
    being loaded.

    Args:
        See :class:`mmengine.runner.EpochBasedTrainLoop`.
    """

    def run_epoch(self) -> None:
        """Train an epoch, or what is left of it."""
        done = self._iter - self._epoch * len(self.dataloader)
        if not 0 < done <= len(self.dataloader):
            if done:
                print_log(f'by this data and batch size, iteration {self._iter} of the checkpoint is not in epoch '
                          f'{self._epoch + 1}: the epoch begins anew', 'current', logging.WARNING)
            super().run_epoch()
            return
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(self._rest(done), start=done):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _rest(self, done: int) -> Iterable[Any]:
        loader = self.dataloader
        batches = list(itertools.islice(loader.batch_sampler, done, None))
        return DataLoader(
            loader.dataset,
            batch_sampler=batches,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor)


def use_resumable_loop(cfg: Config) -> None:
    """Have a config that trains by epochs do so by :class:`EpochBasedTrainLoop`."""
    loop = cfg.get('train_cfg')
    if not loop:
        return
    if 'type' not in loop and loop.get('by_epoch', True):
        loop.pop('by_epoch', None)
        loop.type = 'EpochBasedTrainLoop'
    if loop.get('type') in ('EpochBasedTrainLoop', MMEngineEpochBasedTrainLoop):
        loop.type = 'mmfasternet.EpochBasedTrainLoop'
