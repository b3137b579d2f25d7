"""The checkpoint that a training goes on from."""

import logging
from typing import Any, Dict, List, Optional, Tuple

from mmengine.logging import print_log

from mmfasternet.checkpoints import read_ahead
from mmfasternet.engine.saved_trainings import saved_trainings
from mmfasternet.errors import CheckpointError

#: What a checkpoint holds that a training can go on from.
TRAINING_STATE = {'meta', 'message_hub', 'optimizer'}


def find_training(resume: str, work_dir: str, out_dir: Optional[str] = None) -> Optional[Tuple[str, Optional[int]]]:
    """The checkpoint to go on from, which is read for that; MMEngine then gets what was read.

    Args:
        resume: Path or URL; or ``'auto'``, the newest complete checkpoint of
            the work folder.
        work_dir: The work folder.
        out_dir: The folder of the ``CheckpointHook``, if it is another.
            Defaults to None.

    Returns:
        Its path, and the seed it was trained with if it tells. None where
        there is none yet, which is logged.

    Raises:
        CheckpointError: If a checkpoint that is named is broken, or none of
            the work folder's is complete.
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
            print_log(f'{problem}. Going on from {path}', 'current', logging.WARNING)
        return path, content['meta'].get('seed')
    if problems:
        raise CheckpointError(f"no checkpoint in '{work_dir}' can be resumed: {problems[0]}")
    print_log(f"no checkpoint in '{work_dir}' yet: training starts anew", 'current', logging.WARNING)
    return None


def _read(path: str) -> Dict[str, Any]:
    content = read_ahead(path)
    if not set(content) >= TRAINING_STATE:
        raise CheckpointError(f"checkpoint '{path}' holds weights, and no training that can be resumed here. "
                              f'Start from it with --cfg-options load_from=PATH')
    return content
