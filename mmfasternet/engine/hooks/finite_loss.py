"""Stops a training when a loss is NaN or infinite, before it reaches the weights."""

import logging
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, DefaultDict, Dict, Iterator, List, Tuple

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mmfasternet.compat import accumulation, count_batch, foreach_copy
from mmfasternet.engine.saved_trainings import save_stopped
from mmfasternet.errors import UserError
from mmfasternet.registry import HOOKS

_Parsed = Tuple[Tensor, Dict[str, Tensor]]


class TrainingDiverged(UserError):
    """A loss is NaN or infinite."""


class _LossNotFinite(Exception):
    """Raised between the losses and the optimizer step; the message names the losses."""


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops at a loss that is NaN or infinite, with the weights from before it, or skips the batch.

    It replaces MMDetection's ``CheckInvalidLossHook``, which expects a loss
    for each batch, even for skipped ones.

    Args:
        skip: Skip such batches. Defaults to False.
        max_skipped: Maximum number of batches skipped in a row: after that,
            the weights are likely at fault, not the data. Defaults to 10.

    Raises:
        TrainingDiverged: In the model's train step; the message names loss and
            iteration.
    """

    priority = 'LOWEST'

    def __init__(self, skip: bool = False, max_skipped: int = 10) -> None:
        self.skip = skip
        self.max_skipped = max_skipped
        self._skipped = 0
        self._patches = ExitStack()

    def before_train(self, runner: Runner) -> None:
        self._patches.enter_context(_replaced(runner.model, 'train_step', self._guarding(runner)))

    def after_train(self, runner: Runner) -> None:
        self._patches.close()

    def after_loop(self, runner: Runner) -> None:
        """Restore the model's own train step, also if the training has failed."""
        self._patches.close()

    def _guarding(self, runner: Runner) -> Callable[..., Any]:
        train_step = runner.model.train_step
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # Batch norms have already included the batch in their statistics when its losses are known.
        statistics = _Copies(runner.model)

        def guarded(data: Any, optim_wrapper: Any) -> Dict[str, Tensor]:
            statistics.keep()
            try:
                with _replaced(model, 'parse_losses', _checking(model.parse_losses)):
                    losses = train_step(data, optim_wrapper=optim_wrapper)
            except _LossNotFinite as error:
                statistics.bring_back()
                self._stop_or_skip(runner, str(error))
                _count_skipped(optim_wrapper)
                return {}
            self._skipped = 0
            return losses

        return guarded

    def _stop_or_skip(self, runner: Runner, losses: str) -> None:
        problem = f'{losses} at iteration {runner.iter + 1} (epoch {runner.epoch + 1})'
        if self.skip and self._skipped < self.max_skipped:
            self._skipped += 1
            print_log(f'{problem}: the batch is skipped', 'current', logging.WARNING)
            return
        again = f', {self._skipped} batches after the first skipped one' if self.skip else ''
        # --resume restores the learning rate as well: to change it, training must start from the weights.
        if not _has_finite_weights(runner.model):
            raise TrainingDiverged(f'{problem}{again}; the weights are NaN or infinite, too. Start from an earlier '
                                   f'checkpoint in {runner.work_dir} with a lower learning rate, or clip the gradients')
        path = save_stopped(runner, runner.epoch, runner.iter)
        raise TrainingDiverged(f'{problem}{again}. {path} holds the state before it. Continue with --resume and '
                               'skip=True of FiniteLossHook (mmfasternet train: --skip-nan), or with --resume and '
                               'optim_wrapper.clip_grad, or start from it with a lower learning rate (--cfg-options '
                               f'load_from={path})')


@contextmanager
def _replaced(owner: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Within it, a method of an instance is replaced."""
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)  # uncovers the method of the class
        if before is not None:
            setattr(owner, name, before)


class _Copies:
    """Copies of a model's buffers; on a GPU, buffers of one type are copied by a few kernels instead of one each."""

    def __init__(self, model: nn.Module) -> None:
        alike: DefaultDict[Tuple[torch.device, torch.dtype], List[Tensor]] = defaultdict(list)
        for buffer in model.buffers():
            alike[buffer.device, buffer.dtype].append(buffer.detach())
        self._groups = [(buffers, [buffer.clone() for buffer in buffers]) for buffers in alike.values()]

    def keep(self) -> None:
        for buffers, copies in self._groups:
            foreach_copy(copies, buffers)

    def bring_back(self) -> None:
        for buffers, copies in self._groups:
            foreach_copy(buffers, copies)


def _checking(parse_losses: Callable[[Dict[str, Any]], _Parsed]) -> Callable[[Dict[str, Any]], _Parsed]:

    def checked(losses: Dict[str, Any]) -> _Parsed:
        total, variables = parse_losses(losses)
        is_bad = ~total.detach().isfinite().all()
        if get_world_size() > 1:
            # Either all processes skip a batch or none, because gradients are averaged over all.
            is_bad = is_bad.to(torch.int)
            all_reduce(is_bad, 'max')
        if is_bad:
            bad = [f'{name} is {float(value)}' for name, value in variables.items()
                   if name != 'loss' and not torch.as_tensor(value).isfinite().all()]
            raise _LossNotFinite(', '.join(bad) or 'a loss of another process is NaN or infinite')
        return total, variables

    return checked


def _count_skipped(optim_wrapper: OptimWrapper) -> None:
    """Count a skipped batch for gradient accumulation; if it was the last one of a step, step with the others."""
    if accumulation(optim_wrapper) == 1:
        return
    count_batch(optim_wrapper)
    if not optim_wrapper.should_update():
        return
    parameters = [each for group in optim_wrapper.param_groups for each in group['params'] if each.requires_grad]
    if get_world_size() > 1:
        # The skipped backward pass would have averaged the gradients over the processes.
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            all_reduce(parameter.grad, 'mean')
    if any(parameter.grad is not None for parameter in parameters):
        optim_wrapper.step()
        optim_wrapper.zero_grad()


def _has_finite_weights(model: nn.Module) -> bool:
    """Whether it holds in all processes: the statistics of batch norms differ between them."""
    values = [value for value in model.state_dict().values() if value.is_floating_point()]
    finite = torch.stack([value.isfinite().all() for value in values]).all().to(torch.int)
    if get_world_size() > 1:
        all_reduce(finite, 'min')
    return bool(finite)
