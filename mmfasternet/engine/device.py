"""The device to compute on."""

import os
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from mmfasternet.config_tree import walk
from mmfasternet.cpus import is_limited, usable_cpus
from mmfasternet.errors import UserError

#: By these, a user sets PyTorch's threads.
_VARIABLES = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')


def find_device(name: Optional[str] = None) -> torch.device:
    """The device named ``name``; without a name the first GPU, else the CPU.

    Raises:
        UserError: If it does not exist.
    """
    if name is None:
        name = 'cuda:0' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == 'cuda' and device.index is not None:
            torch.cuda.set_device(device)  # for events and graphs, too
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device '{name}' can't be used: {str(error).splitlines()[0]}. Use cpu, or cuda:0 for the "
                        f'first GPU') from None
    return device


def set_threads(count: Optional[int] = None) -> None:
    """Set the number of PyTorch's threads on a CPU.

    Args:
        count: The number. Defaults to None: PyTorch's own choice, but at most
            the CPUs that this process may use (as in a container with a
            quota), unless ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS`` is set.

    Raises:
        UserError: If the number is not possible.
    """
    if count is not None and count < 1:
        raise UserError(f'the number of threads must be at least 1, got {count}')
    if count is None and not any(name in os.environ for name in _VARIABLES):
        count = usable_cpus()
        if count >= torch.get_num_threads():
            return
        print_log(f'PyTorch uses {count} threads, the number of CPUs that this process may use, instead of '
                  f'{torch.get_num_threads()}; OMP_NUM_THREADS sets another number', 'current')
    if count:
        torch.set_num_threads(count)


def limit_workers(cfg: Config, options: Any = None) -> None:
    """A step of :func:`~mmfasternet.engine.preparing.prepare`: no more data loader workers than usable CPUs.

    If this process may use all CPUs of the machine, the config's number is
    kept. Processes that ``torchrun`` started on one machine share the CPUs.
    """
    if not is_limited():
        return
    most = max(1, usable_cpus() // int(os.environ.get('LOCAL_WORLD_SIZE') or 1))
    lowered = []
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for where, loader in walk(cfg.get(key), key):
            workers = loader.get('num_workers')
            if isinstance(workers, int) and workers > most:
                loader['num_workers'] = most
                lowered.append(f'{where} {workers}')
    if lowered:
        print_log(f'num_workers is {most} instead of {", ".join(lowered)}: of {os.cpu_count()} CPUs, this process may '
                  f'use {usable_cpus()}', 'current')
