"""MMEngine's loops, which can resume in the middle of an epoch and always clean up at the end."""

import itertools
import logging
from typing import Any, Iterable, Optional

from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop as MMEngineEpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as MMEngineIterBasedTrainLoop
from mmengine.runner import TestLoop as MMEngineTestLoop
from torch import nn
from torch.utils.data import DataLoader

from mmfasternet.compat import set_progress, update_val_interval
from mmfasternet.engine.last_batch import check_last_batch, named_norm_errors
from mmfasternet.errors import DataError
from mmfasternet.registry import LOOPS

#: In the message hub: the iteration after which the last validation was. MMEngine logs what is called val..., train...
#: or test...
VALIDATED = 'last_validated_iteration'


class TrainingStopped(Exception):
    """The training was asked to stop, and its state is saved; the message says how to continue."""


class _InOrder:
    """Mixin for a loop: calls the hooks' :meth:`after_loop` at the end, also after an error.

    A training that was asked to stop ends like a finished one.

    Raises:
        DataError: If there is no batch to loop over.
    """
    runner: Any
    dataloader: DataLoader

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        loader = self.dataloader
        if not len(loader):
            dropped = f', fewer than a batch of {loader.batch_size}, and drop_last=True leaves incomplete ones out'
            raise DataError(f"the dataset has {len(loader.dataset)} images{dropped if loader.drop_last else ''}: there "
                            'is no batch to loop over. Use a smaller batch_size, or more data')

    def run(self) -> Any:
        """Run, from the resumed position if there is one."""
        try:
            return super().run()  # type: ignore[misc]
        except TrainingStopped as stopped:
            self.runner.logger.info(str(stopped))
            return self.runner.model
        finally:
            self.runner.call_hook('after_loop')


class _NamesOneValue:
    """Mixin for a training loop: a batch norm that gets one value per channel raises a one-line error."""
    iter: int

    def run_iter(self, *args: Any) -> None:
        """Train on a batch (the last argument)."""
        with named_norm_errors(args[-1], self.iter + 1):
            super().run_iter(*args)  # type: ignore[misc]


class _RepeatsValidation:
    """Mixin for a training loop: a validation that may have been interrupted is repeated."""
    runner: Any
    iter: int
    val_begin: int
    val_interval: int

    def _may_lack_validation(self) -> bool:
        return bool(self.iter) and self.runner.message_hub.runtime_info.get(VALIDATED) != self.iter

    def _validate_if_due(self, done: int, total: int) -> None:
        """Validate where MMEngine would after ``done`` of ``total`` epochs or iterations."""
        update_val_interval(self)
        if self.runner.val_loop is not None and done >= self.val_begin and (
                done % self.val_interval == 0 or done == total):
            self.runner.val_loop.run()


class _Epochs(_NamesOneValue, _RepeatsValidation, MMEngineEpochBasedTrainLoop):
    #: Batches of an epoch when the checkpoint was written; None if it does not tell.
    resumed_length: Optional[int] = None
    _last_batch_checked = False

    def run(self) -> nn.Module:
        done = self.iter - self.epoch * (self.resumed_length or len(self.dataloader))
        repeats_validation = not done and self._may_lack_validation()
        self._done = self._batches_done(done)
        self.runner.call_hook('before_train')
        if repeats_validation:
            self._validate_if_due(self.epoch, self.max_epochs)
        while self.epoch < self.max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due(self.epoch, self.max_epochs)
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train an epoch, or the rest of it."""
        done, self._done = self._done, 0
        if not done:
            super().run_epoch()
            return
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(self._rest(done), start=done):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        set_progress(self, epoch=self.epoch + 1)

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Train on a batch; before the first one, check that the last batch of an epoch can be trained on."""
        if not self._last_batch_checked:
            check_last_batch(self.dataloader, self.runner.model, data_batch)
            self._last_batch_checked = True
        super().run_iter(idx, data_batch)

    def _batches_done(self, done: int) -> int:
        """How many batches of the epoch are not trained on again: ``done``, or none if the epoch has other batches now.

        Iterations are then counted as if all epochs had had as many batches as now: MMEngine expects them to end at
        ``max_iters``.
        """
        length, now = self.resumed_length, len(self.dataloader)
        if not done and length in (None, now) or length == now and 0 < done <= now:
            return done
        is_validated = not self._may_lack_validation()
        is_complete = done == length  # a checkpoint after the last iteration
        if done and not is_complete:
            print_log(f'the checkpoint is from iteration {self.iter}, with {length or "an unknown number of"} batches '
                      f'per epoch, and there are {now} now: epoch {self.epoch + 1} is restarted', 'current',
                      logging.WARNING)
        done = now if is_complete else 0
        set_progress(self, iteration=self.epoch * now + done)
        self.runner.optim_wrapper.initialize_count_status(self.runner.model, self.iter, self.max_iters)
        if is_validated:
            self.runner.message_hub.update_info(VALIDATED, self.iter)
        return done

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


@LOOPS.register_module()
class EpochBasedTrainLoop(_InOrder, _Epochs):
    """MMEngine's ``EpochBasedTrainLoop``, able to resume in the middle of an epoch, with a clean end.

    MMEngine would restart the epoch, and run more iterations than the schedule
    has. Here, batches that were already trained on are skipped without loading
    them. A validation that may have been interrupted is repeated. The position
    in the epoch is known if :class:`~mmfasternet.engine.hooks.ResumeHook` is
    used.

    Args:
        See :class:`mmengine.runner.EpochBasedTrainLoop`.
    """


@LOOPS.register_module()
class IterBasedTrainLoop(_InOrder, _NamesOneValue, _RepeatsValidation, MMEngineIterBasedTrainLoop):
    """MMEngine's ``IterBasedTrainLoop`` with a clean end.

    A validation that may have been interrupted is repeated if
    :class:`~mmfasternet.engine.hooks.ResumeHook` is used.

    Args:
        See :class:`mmengine.runner.IterBasedTrainLoop`.
    """

    def repeat_validation(self) -> None:
        """Validate before the first iteration if the checkpoint's iteration is followed by a validation."""
        if self._may_lack_validation():
            self._validate_if_due(self.iter, self.max_iters)


@LOOPS.register_module()
class TestLoop(_InOrder, MMEngineTestLoop):
    """MMEngine's ``TestLoop`` with a clean end.

    Args:
        See :class:`mmengine.runner.TestLoop`.
    """
