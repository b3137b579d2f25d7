"""Trainings in processes of their own, to be stopped by whatever stops them.

The processes are forked from a server that has imported all they need: twenty of them cost seconds, not minutes.
"""

import importlib.util
import re
import resource
import sys
import time

from tests.conftest import ROOT
from tests.forked import CONTEXT, redirect


def _train(arguments, log, file_size):
    """``tools/train.py`` with these arguments, its output in a file."""
    redirect(log, log)
    if file_size:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    spec = importlib.util.spec_from_file_location('tools_train', ROOT / 'tools' / 'train.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.argv = ['tools/train.py', *arguments]
    module.main()


class Training:
    """A training in its own process, from a config file, which goes on where the last one was.

    Args:
        config: The config file.
        work_dir: Its work folder.
        file_size: How large files may become, in bytes. Defaults to None.
    """

    def __init__(self, config, work_dir, *flags, file_size=None):
        self.work_dir = work_dir
        self.log = work_dir.parent / f'{time.time_ns()}.log'
        arguments = [str(config), '--work-dir', str(work_dir), '--resume', *flags]
        self.process = CONTEXT.Process(target=_train, args=(arguments, str(self.log), file_size))
        self.process.start()

    def output(self):
        return self.log.read_text() if self.log.exists() else ''

    def iterations(self):
        """How many this process has logged."""
        return len(re.findall(r'Epoch\(train\)', self.output()))

    def wait_for(self, condition, *arguments):
        """Wait until the condition holds; gives whether it does, or the process has ended before."""
        end = time.monotonic() + 120
        while self.process.is_alive():
            if condition(*arguments):
                return True
            assert time.monotonic() < end, self.output()[-3000:]
            time.sleep(0.0005)
        return False

    def wait_for_iterations(self, count):
        return self.wait_for(lambda: self.iterations() >= count)

    def join(self, seconds=300):
        self.process.join(seconds)
        assert self.process.exitcode is not None, 'it hangs'
        return self.process.exitcode
