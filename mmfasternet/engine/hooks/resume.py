"""Going on from where a training was interrupted, in the middle of an epoch, too."""

import itertools
import logging
from typing import Any, Dict, Iterable, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop as MMEngineEpochBasedTrainLoop
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmfasternet.checkpoints import load_for_mmengine
from mmfasternet.engine.hooks.checkpoint import saved_trainings
from mmfasternet.errors import CheckpointError, UserError
from mmfasternet.registry import LOOPS

#: What a checkpoint holds that a training can go on from.
TRAINING_STATE = {'meta', 'message_hub', 'optimizer'}
# What we add to it: an entry of meta, and one beside it.
_LENGTH, _GRADIENTS = 'batches_per_epoch', 'accumulated_gradients'
_VALIDATED = 'validated_epoch'  # in the message hub


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
        hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
        found = _newest(cfg.work_dir, hook.get('out_dir'))
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


def _newest(work_dir: str, out_dir: Optional[str]) -> Optional[Tuple[str, Dict[str, Any]]]:
    problems = []
    for path in saved_trainings(work_dir, out_dir):
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


class ResumeHook(Hook):
    """Keeps in checkpoints what MMEngine leaves out, and brings it back.

    That is how many batches an epoch has, by which the place in the epoch is
    found, and, between two steps of gradient accumulation, the gradients. (The
    gradients of several processes differ then, and are lost as in MMEngine.)
    """

    def __init__(self) -> None:
        self._gradients: Dict[str, Tensor] = {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        checkpoint['meta'][_LENGTH] = len(runner.train_dataloader)
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if checkpoint['meta']['iter'] % counts and get_world_size() == 1:
            checkpoint[_GRADIENTS] = {name: parameter.grad.cpu() for name, parameter in runner.model.named_parameters()
                                      if parameter.grad is not None}

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        self._gradients = checkpoint.get(_GRADIENTS, {})
        if isinstance(runner._train_loop, EpochBasedTrainLoop):
            runner._train_loop.resumed_length = checkpoint.get('meta', {}).get(_LENGTH)

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        if runner._train_loop is not None:
            runner.message_hub.update_info(_VALIDATED, runner.epoch)

    def before_train(self, runner: Runner) -> None:
        _check_agreement(runner.iter)
        if runner.iter and get_world_size() == 1:  # it goes on, and does not only start from the weights
            for name, parameter in runner.model.named_parameters():
                if name in self._gradients:
                    parameter.grad = self._gradients[name].to(parameter.device)
        self._gradients = {}


def _check_agreement(iteration: int) -> None:
    """Several machines may each look for a checkpoint on a disk of their own."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    lowest, highest = torch.tensor(iteration, device=device), torch.tensor(iteration, device=device)
    all_reduce(lowest, 'min')
    all_reduce(highest, 'max')
    if lowest != highest:
        raise UserError(f'some processes would go on from iteration {int(highest)}, others from {int(lowest)}: '
                        'the work folder must be on a disk that all machines share')


@LOOPS.register_module()
class EpochBasedTrainLoop(MMEngineEpochBasedTrainLoop):
    """MMEngine's ``EpochBasedTrainLoop`` that goes on in the middle of an epoch.

    MMEngine would begin the epoch anew, and do more iterations than the
    schedule has. Here the batches that were trained on are left out, without
    being loaded. A validation that may have been interrupted is repeated.

    Args:
        See :class:`mmengine.runner.EpochBasedTrainLoop`.
    """

    _iter: int
    _epoch: int
    #: Batches of an epoch when the checkpoint was written; None if it does not tell.
    resumed_length: Optional[int] = None

    def run(self) -> nn.Module:
        """Train, from where a checkpoint was written if there is one."""
        length = self.resumed_length or len(self.dataloader)
        self._done = self._batches_done(length)
        self.runner.call_hook('before_train')
        validated = self.runner.message_hub.runtime_info.get(_VALIDATED)
        if self._iter and self._iter == self._epoch * length and validated != self._epoch:
            self._validate_if_due()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train an epoch, or what is left of it."""
        done, self._done = self._done, 0
        if not done:
            super().run_epoch()
            return
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(self._rest(done), start=done):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _batches_done(self, length: int) -> int:
        done = self._iter - self._epoch * length
        if not done or length == len(self.dataloader) and 0 < done <= length:
            return done
        print_log(f'the checkpoint is of iteration {self._iter}, with {length} batches in an epoch, and here are '
                  f'{len(self.dataloader)}: epoch {self._epoch + 1} begins anew', 'current', logging.WARNING)
        self._iter = self._epoch * len(self.dataloader)
        self.runner.optim_wrapper.initialize_count_status(self.runner.model, self._iter, self._max_iters)
        return 0

    def _validate_if_due(self) -> None:
        self._decide_current_val_interval()
        if self.runner.val_loop is not None and self._epoch >= self.val_begin and (
                self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs):
            self.runner.val_loop.run()

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
