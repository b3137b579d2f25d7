"""``torchrun`` without its traceback: the processes themselves report what is wrong, or that they stopped cleanly.

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
    """Within it, torchrun records the exit codes of the processes it stops; yields the list of them."""
    codes: List[Optional[int]] = []
    close = api.SubprocessContext.close
    was_set = 'close' in vars(api.SubprocessContext)  # else its base class has it

    def closing(self: Any, death_sig: Optional[signal.Signals] = None, timeout: int = 30) -> None:
        # After a signal to torchrun, its sender decides how long a clean end may take: a validation may take minutes.
        # After a failed process, the others get torchrun's usual time.
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
            # Processes that were stopped because of it have negative exit codes.
            sys.exit(max(1, *(failure.exitcode for failure in error.failures.values())))
        except api.SignalException as stop:
            # The processes got the signal, too: a training that saved and ended cleanly is not a failure.
            sys.exit(0 if codes and not any(codes) else 128 + stop.sigval)
