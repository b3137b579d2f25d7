"""Finds the checkpoint that a training resumes from."""

import logging
from typing import Any, Dict, List, Optional, Tuple

from mmengine.logging import print_log

from mmfasternet.checkpoints import read_ahead
from mmfasternet.engine.saved_trainings import saved_trainings
from mmfasternet.errors import CheckpointError

#: What a checkpoint holds that a training can go on from.
TRAINING_STATE = {'meta', 'message_hub', 'optimizer'}


def find_training(resume: str, work_dir: str, out_dir: Optional[str] = None) -> Optional[Tuple[str, Optional[int]]]:
    """The checkpoint to resume from. It is read here, and MMEngine then gets what was read.

    Args:
        resume: Path or URL; or ``'auto'``, the newest complete checkpoint of
            the work folder.
        work_dir: The work folder.
        out_dir: The folder of the ``CheckpointHook``, if different. Defaults
            to None.

    Returns:
        Its path, and the seed of its training if known. None if there is no
        checkpoint yet, which is logged.

    Raises:
        CheckpointError: If the given checkpoint is broken, or the work folder
            has no complete one.
    """
    if resume != 'auto':
        return resume, _read(resume)['meta'].get('seed')
    problems: List[str] = []
    for path in saved_trainings(work_dir, out_dir):
        try:
            content = _read(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            print_log(f'{problem}. Resuming from {path}', 'current', logging.WARNING)
        return path, content['meta'].get('seed')
    if problems:
        raise CheckpointError(f"no checkpoint in '{work_dir}' can be resumed: {problems[0]}")
    print_log(f"no checkpoint in '{work_dir}' yet: training starts from the beginning", 'current', logging.WARNING)
    return None


def _read(path: str) -> Dict[str, Any]:
    content = read_ahead(path)
    if not set(content) >= TRAINING_STATE:
        raise CheckpointError(f"checkpoint '{path}' holds weights, but no training state that can be resumed. Start "
                              'from it with --cfg-options load_from=PATH')
    return content
