"""``torchrun`` that leaves out its traceback: the process that failed has said what is wrong.

Run as ``python -m mmfasternet.engine.launch``, with the arguments of ``torchrun``.
"""

import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == '__main__':
    try:
        main()
    except ChildFailedError as error:
        # Those that were stopped for it have negative ones.
        sys.exit(max(1, *(failure.exitcode for failure in error.failures.values())))
