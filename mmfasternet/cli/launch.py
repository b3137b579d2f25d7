"""``torchrun`` without its traceback: the processes themselves say what is wrong, or that they stopped in order.

Run as ``python -m mmfasternet.cli.launch``, with the arguments of ``torchrun``.
"""

import signal
import sys
from contextlib import contextmanager
from typing import Any, Iterator, List, Optional

from torch.distributed.elastic.multiprocessing import api
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

from mmfasternet.compat import exit_codes

_DAY = 24 * 60 * 60  # in seconds


@contextmanager
def noting_exit_codes() -> Iterator[List[Optional[int]]]:
    """Within it, torchrun notes how the processes ended that it stops; gives the list they will be in."""
    codes: List[Optional[int]] = []
    close = api.SubprocessContext.close
    was_set = 'close' in vars(api.SubprocessContext)  # else its base class has it

    def closing(self: Any, death_sig: Optional[signal.Signals] = None, timeout: int = 30) -> None:
        # Whoever sends a signal to torchrun sets the time to end in order, and a validation may take minutes. Where a
        # process has failed, the others have the usual time.
        close(self, death_sig, _DAY if isinstance(sys.exc_info()[1], api.SignalException) else timeout)
        codes.extend(exit_codes(self))

    api.SubprocessContext.close = closing
    try:
        yield codes
    finally:
        if was_set:
            api.SubprocessContext.close = close
        else:
            del api.SubprocessContext.close


if __name__ == '__main__':
    with noting_exit_codes() as codes:
        try:
            main()
        except ChildFailedError as error:
            # Those that were stopped for it have negative ones.
            sys.exit(max(1, *(failure.exitcode for failure in error.failures.values())))
        except api.SignalException as stop:
            # The processes got the signal, too: a training that saved and ended in order is no failure.
            sys.exit(0 if codes and not any(codes) else 128 + stop.sigval)
