"""The processes of a run: the rank of this one, and the process group if there are several."""

import os
import time

import torch

from mmfasternet.errors import UserError


def is_first_process() -> bool:
    """Whether this is the first process, by the launchers' variables: the process group starts with the runner."""
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
        raise UserError(f'--launcher {launcher} needs GPUs, and PyTorch sees none here. On CPUs use torchrun -m '
                        'mmfasternet ... --launcher pytorch')


def join_processes(launcher: str) -> None:
    """Start the process group without GPUs; with GPUs, MMEngine starts it."""
    if launcher != 'none' and not torch.cuda.is_available():
        torch.distributed.init_process_group('gloo')


def end_processes() -> None:
    """Shut down the process group cleanly.

    gloo reports work as done before its thread releases the tensors, which takes Python's lock: if the interpreter ends
    in between, the process aborts.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        time.sleep(0.5)
