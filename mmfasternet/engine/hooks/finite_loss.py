"""Losses that are no numbers stop a training before they reach its weights."""

import logging
from collections import defaultdict
from typing import Any, Callable, DefaultDict, Dict, List, Tuple

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mmfasternet.engine.hooks.checkpoint import save_stopped
from mmfasternet.errors import UserError

_Parsed = Tuple[Tensor, Dict[str, Tensor]]


class TrainingDiverged(UserError):
    """A loss is NaN or infinite."""


class _LossNotFinite(Exception):
    """Between the losses and the step of the optimizer; the text names them."""


class FiniteLossHook(Hook):
    """Stops at a loss that is NaN or infinite, with the weights as they were before it, or leaves the batch out.

    Args:
        skip: Leave such batches out. Defaults to False.
        max_skipped: How many in a row may be left out: then the weights are
            at fault, and no longer the data. Defaults to 10.

    Raises:
        TrainingDiverged: In the model's train step; its text names loss and
            iteration.
    """

    priority = 'LOWEST'

    def __init__(self, skip: bool = False, max_skipped: int = 10) -> None:
        self.skip = skip
        self.max_skipped = max_skipped
        self._skipped = 0

    def before_run(self, runner: Runner) -> None:
        # MMDetection's looks for the loss of each batch, also of those that were left out.
        runner._hooks = [hook for hook in runner._hooks if type(hook).__name__ != 'CheckInvalidLossHook']

    def before_train(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.parse_losses = _checking(model.parse_losses)
        runner.model.train_step = self._guarding(runner, runner.model.train_step)

    def after_train(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for owner, name in ((model, 'parse_losses'), (runner.model, 'train_step')):
            owner.__dict__.pop(name, None)  # the class's own come to light again

    def _guarding(self, runner: Runner, train_step: Callable[..., Dict[str, Tensor]]) -> Callable[..., Any]:

        # Batch norms have taken the batch into their statistics by the time that its losses are known.
        statistics = _Copies(runner.model)

        def guarded(data: Any, optim_wrapper: Any) -> Dict[str, Tensor]:
            statistics.keep()
            try:
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
            print_log(f'{problem}: the batch is left out', 'current', logging.WARNING)
            return
        again = f', {self._skipped} batches after the first that was left out' if self.skip else ''
        # --resume brings the learning rate back as well: with another one, training starts from the weights.
        if not _has_finite_weights(runner.model):
            raise TrainingDiverged(f'{problem}{again}; the weights are no numbers either. Start from an earlier '
                                   f'checkpoint in {runner.work_dir} with a lower learning rate, or clip the gradients')
        path = save_stopped(runner, runner.epoch, runner.iter)
        raise TrainingDiverged(f'{problem}{again}. {path} holds the state before it. Go on with --resume --skip-nan or '
                               'with --resume and optim_wrapper.clip_grad, or start from it with a lower learning rate '
                               f'(--cfg-options load_from={path})')


class _Copies:
    """Copies of a model's buffers; on a GPU those of a type are copied by few kernels, and not each by its own."""

    def __init__(self, model: nn.Module) -> None:
        alike: DefaultDict[Tuple[torch.device, torch.dtype], List[Tensor]] = defaultdict(list)
        for buffer in model.buffers():
            alike[buffer.device, buffer.dtype].append(buffer.detach())
        self._groups = [(buffers, [buffer.clone() for buffer in buffers]) for buffers in alike.values()]

    def keep(self) -> None:
        for buffers, copies in self._groups:
            torch._foreach_copy_(copies, buffers)

    def bring_back(self) -> None:
        for buffers, copies in self._groups:
            torch._foreach_copy_(buffers, copies)


def _checking(parse_losses: Callable[[Dict[str, Any]], _Parsed]) -> Callable[[Dict[str, Any]], _Parsed]:

    def checked(losses: Dict[str, Any]) -> _Parsed:
        total, variables = parse_losses(losses)
        is_bad = ~total.detach().isfinite().all()
        if get_world_size() > 1:
            # All processes leave a batch out, or none: the gradients are of all.
            is_bad = is_bad.to(torch.int)
            all_reduce(is_bad, 'max')
        if is_bad:
            bad = [f'{name} is {float(value)}' for name, value in variables.items()
                   if name != 'loss' and not torch.as_tensor(value).isfinite().all()]
            raise _LossNotFinite(', '.join(bad) or 'a loss of another process is no number')
        return total, variables

    return checked


def _count_skipped(optim_wrapper: OptimWrapper) -> None:
    """Have a batch count for gradient accumulation; where it was the last of a step, step by the others."""
    optim_wrapper._inner_count += 1
    if optim_wrapper._accumulative_counts == 1 or not optim_wrapper.should_update():
        return
    parameters = [each for group in optim_wrapper.param_groups for each in group['params'] if each.requires_grad]
    if get_world_size() > 1:
        # The backward pass that was left out would have averaged over the processes.
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            all_reduce(parameter.grad, 'mean')
    if any(parameter.grad is not None for parameter in parameters):
        optim_wrapper.step()
        optim_wrapper.zero_grad()


def _has_finite_weights(model: nn.Module) -> bool:
    """Whether all processes have; the statistics of batch norms differ between them."""
    values = [value for value in model.state_dict().values() if value.is_floating_point()]
    finite = torch.stack([value.isfinite().all() for value in values]).all().to(torch.int)
    if get_world_size() > 1:
        all_reduce(finite, 'min')
    return bool(finite)
