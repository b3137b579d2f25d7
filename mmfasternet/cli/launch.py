"""``torchrun`` without its traceback: the processes themselves say what is wrong, or that they stopped in order.

Run as ``python -m mmfasternet.cli.launch``, with the arguments of ``torchrun``.
"""

import signal
import sys
from typing import Any, List, Optional

from torch.distributed.elastic.multiprocessing import api
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

_DAY = 24 * 60 * 60  # in seconds


def _noting_exit_codes() -> List[int]:
    """Have torchrun note how the processes ended that it stops; gives the list they will be in."""
    codes: List[int] = []
    close = api.SubprocessContext.close

    def closing(self: Any, death_sig: Optional[signal.Signals] = None, timeout: int = 30) -> None:
        # Whoever sends a signal to torchrun sets the time to end in order, and a validation may take minutes. Where a
        # process has failed, the others have the usual time.
        close(self, death_sig, _DAY if isinstance(sys.exc_info()[1], api.SignalException) else timeout)
        codes.extend(handler.proc.returncode for handler in self.subprocess_handlers.values())

    api.SubprocessContext.close = closing
    return codes


if __name__ == '__main__':
    codes = _noting_exit_codes()
    try:
        main()
    except ChildFailedError as error:
        # Those that were stopped for it have negative ones.
        sys.exit(max(1, *(failure.exitcode for failure in error.failures.values())))
    except api.SignalException as stop:
        # The processes got the signal, too: a training that saved and ended in order is no failure.
        sys.exit(0 if codes and not any(codes) else 128 + stop.sigval)
