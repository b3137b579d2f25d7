"""Saves what MMEngine's checkpoints lack for resuming in the middle of an epoch."""

from typing import Any, Dict

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmfasternet.compat import accumulation, built_train_loop
from mmfasternet.engine.loops import VALIDATED, EpochBasedTrainLoop, IterBasedTrainLoop
from mmfasternet.errors import UserError
from mmfasternet.registry import HOOKS

# What is added to a checkpoint: an entry of meta, and one beside it.
_LENGTH, _GRADIENTS = 'batches_per_epoch', 'accumulated_gradients'


@HOOKS.register_module()
class ResumeHook(Hook):
    """Adds missing state to checkpoints, and restores it.

    This is the number of batches per epoch, which gives the position in the
    epoch, and, between two steps of gradient accumulation, the gradients.
    (With several processes the gradients differ, and are lost as in MMEngine.)
    """

    def __init__(self) -> None:
        self._gradients: Dict[str, Tensor] = {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        checkpoint['meta'][_LENGTH] = len(runner.train_dataloader)
        if checkpoint['meta']['iter'] % accumulation(runner.optim_wrapper) and get_world_size() == 1:
            checkpoint[_GRADIENTS] = {name: parameter.grad.cpu() for name, parameter in runner.model.named_parameters()
                                      if parameter.grad is not None}

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        self._gradients = checkpoint.get(_GRADIENTS, {})
        if isinstance(built_train_loop(runner), EpochBasedTrainLoop):
            runner.train_loop.resumed_length = checkpoint.get('meta', {}).get(_LENGTH)

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        if built_train_loop(runner) is not None:
            runner.message_hub.update_info(VALIDATED, runner.iter)

    def before_train(self, runner: Runner) -> None:
        _check_agreement(runner.iter)
        if runner.iter and get_world_size() == 1:  # it resumes, and does not just start from the weights
            for name, parameter in runner.model.named_parameters():
                if name in self._gradients:
                    parameter.grad = self._gradients[name].to(parameter.device)
        self._gradients = {}

    def before_train_epoch(self, runner: Runner) -> None:
        if isinstance(runner.train_loop, IterBasedTrainLoop):  # for which the whole training is one epoch
            runner.train_loop.repeat_validation()


def _check_agreement(iteration: int) -> None:
    """Check that all processes resume from the same iteration: machines may have separate disks."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    lowest, highest = torch.tensor(iteration, device=device), torch.tensor(iteration, device=device)
    all_reduce(lowest, 'min')
    all_reduce(highest, 'max')
    if lowest != highest:
        raise UserError(f'some processes would continue from iteration {int(highest)}, others from {int(lowest)}: the '
                        'work folder must be on a disk that all machines share')
