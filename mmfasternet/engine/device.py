"""The device that work is done on."""

from typing import Optional

import torch

from mmfasternet.errors import UserError


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


def set_threads(count: Optional[int]) -> None:
    """Have PyTorch use so many threads on a CPU; None leaves it as it is.

    Raises:
        UserError: If there can't be so many.
    """
    if count is not None and count < 1:
        raise UserError(f'--threads must be at least 1, got {count}')
    if count:
        torch.set_num_threads(count)
