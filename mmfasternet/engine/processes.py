"""The processes of a run: which one this is, and their group where there are several."""

import os
import time

import torch

from mmfasternet.errors import UserError


def is_first_process() -> bool:
    """By the launchers' variables: the process group comes up only with MMEngine's runner."""
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))) == 0


def check_launcher(launcher: str) -> None:
    """Check that a launcher can work here.

    Raises:
        UserError: If not.
    """
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        raise UserError('--launcher pytorch is for processes that torchrun starts: torchrun --nproc_per_node=8 -m '
                        'mmfasternet train ..., as tools/dist_train.sh does')
    if launcher in ('slurm', 'mpi') and not torch.cuda.is_available():
        raise UserError(f'--launcher {launcher} needs GPUs, and PyTorch sees none here. On CPUs torchrun -m '
                        f'mmfasternet ... --launcher pytorch does')


def join_processes(launcher: str) -> None:
    """Form the group of several processes without a GPU; MMEngine forms it where there are GPUs."""
    if launcher != 'none' and not torch.cuda.is_available():
        torch.distributed.init_process_group('gloo')


def end_processes() -> None:
    """Dissolve the process group in order.

    gloo reports a work as done before its thread lets go of the tensors, which takes Python's lock: an interpreter that
    ends in between aborts the process.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        time.sleep(0.5)
