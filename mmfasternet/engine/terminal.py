"""What a run prints on the terminal: its progress. The log file has everything."""

import logging
from typing import Any

from mmengine.logging import MMLogger
from mmengine.runner import Runner

#: How MMEngine's dumps begin, which are hundreds of lines: of the machine, the config and the order of hooks.
_DUMPS = (f'\n{"-" * 60}\nSystem environment:', 'Config:\n', 'Hooks will be executed in the following order:\n')
#: Warnings that MMEngine gives in every run.
_NOISE = ('The prefix is not set in metric class', '"FileClient" will be deprecated', '"HardDiskBackend" is the alias',
          'Failed to search registry with scope "mmdet" in the "function" registry tree')


class TerminalRunner(Runner):
    """MMEngine's runner, whose dumps of config, environment and hooks are in the log file only."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """See :class:`mmengine.runner.Runner`."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_is_for_the_terminal)
        logger.info(f'config, environment and everything else: {logger.log_file}')
        return logger


def _is_for_the_terminal(record: logging.LogRecord) -> bool:
    text = str(record.msg)  # getMessage() would raise for faulty arguments, outside of logging's handling
    if record.levelno <= logging.INFO:
        return not text.startswith(_DUMPS)
    return record.levelno > logging.WARNING or not text.startswith(_NOISE)
