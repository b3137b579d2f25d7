"""The device that work is done on."""

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
    """The device called ``name``; without a name the first GPU, else the CPU.

    Raises:
        UserError: If it is not there.
    """
    if name is None:
        name = 'cuda:0' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == 'cuda' and device.index is not None:
            torch.cuda.set_device(device)  # of events and graphs, too
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device '{name}' can't be used: {str(error).splitlines()[0]}. Use cpu, or cuda:0 for the "
                        f'first GPU') from None
    return device


def set_threads(count: Optional[int] = None) -> None:
    """Have PyTorch use so many threads on a CPU.

    Args:
        count: Their number. Defaults to None: what PyTorch takes by itself,
            but no more than the CPUs that this process may use, as in a
            container with a quota, unless ``OMP_NUM_THREADS`` or
            ``MKL_NUM_THREADS`` says it.

    Raises:
        UserError: If there can't be so many.
    """
    if count is not None and count < 1:
        raise UserError(f'--threads must be at least 1, got {count}')
    if count is None and not any(name in os.environ for name in _VARIABLES):
        count = usable_cpus()
        if count >= torch.get_num_threads():
            return
        print_log(f'PyTorch uses {count} threads, as many as this process may use CPUs, and not '
                  f'{torch.get_num_threads()}; OMP_NUM_THREADS sets another number', 'current')
    if count:
        torch.set_num_threads(count)


def limit_workers(cfg: Config, options: Any = None) -> None:
    """A step of :func:`~mmfasternet.engine.preparing.prepare`: no more workers of data loaders than CPUs to be used.

    Where this process may use all CPUs of the machine, the config's number
    stays. Several processes of a machine that ``torchrun`` started share them.
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
        print_log(f'num_workers is {most} in the place of {", ".join(lowered)}: of {os.cpu_count()} CPUs, this process '
                  f'may use {usable_cpus()}', 'current')
