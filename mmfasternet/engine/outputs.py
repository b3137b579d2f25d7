"""Checks before a run that it can write its outputs; finds the files of a test that only writes results."""

import glob
import mmap
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.config import Config

from mmfasternet.config_tree import walk
from mmfasternet.errors import UserError
from mmfasternet.files import check_file, check_folder


def check_outputs(cfg: Config, splits: Sequence[str]) -> None:
    """Check that a run can write its outputs: logs, checkpoints, results, pictures.

    Args:
        cfg: The config of the run.
        splits: Which are used, of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        UserError: If it can't, the config itself can't be saved, or an
            evaluator has no path for its results.
    """
    for path, node in walk({key: cfg[key] for key in cfg}):
        for key, value in node.items():
            if callable(value):  # MMEngine saves the config as Python, which can't express it
                what = f"{f'{path}.' * bool(path)}{key} is {repr(value).splitlines()[0]}"
                raise UserError(f"config '{cfg.filename}' can't be saved: {what}. Move it to a module that can be "
                                'imported')
    check_folder(cfg.work_dir)
    evaluators = {f'{split}_evaluator': cfg.get(f'{split}_evaluator') for split in splits}
    for path, node in _writing_only(evaluators):
        if not node.get('outfile_prefix'):
            key = f'{path}.outfile_prefix'.replace('[', '.').replace(']', '')
            raise UserError(f'{path}.format_only=True writes results, but the config does not say where: set {key} to '
                            f'the prefix of their file names (--cfg-options {key}=PATH)')
    for _, node in walk([cfg.get('default_hooks'), cfg.get('custom_hooks'), cfg.get('visualizer'), evaluators]):
        for key, place in node.items():
            if not isinstance(place, (str, Path)) or '://' in str(place):
                continue
            # The keys that parts of MMEngine, MMDetection and MMPretrain have in common.
            if key in ('out_dir', 'save_dir') and node.get('enable', True):
                check_folder(place)
            elif key == 'test_out_dir' and node.get('draw'):
                check_folder(Path(cfg.work_dir) / place)
            elif key == 'outfile_prefix':
                check_file(f'{place}.bbox.json')  # for CityscapesMetric it is a folder, which may exist
            elif key == 'out_file_path':
                check_file(place)


def written_results(evaluator: Any, since: float) -> Optional[Dict[str, Optional[int]]]:
    """What evaluators with ``format_only=True`` wrote, as for COCO's test-dev.

    Args:
        evaluator: A config's ``test_evaluator``.
        since: Start of the test, in seconds as from ``time.time()``.

    Returns:
        The files in order, each with its number of results, or None if it is
        not a COCO JSON file; and folders, which end in ``os.sep``, each with
        its number of files. None if all evaluators compute metrics.
    """
    prefixes = [node['outfile_prefix'] for _, node in _writing_only(evaluator) if node.get('outfile_prefix')]
    if not prefixes:
        return None
    written: Dict[str, Optional[int]] = {}
    for path in (path for prefix in prefixes for path in glob.glob(f'{glob.escape(prefix)}*')):
        if _is_new(path, since):
            written[path] = _count(path) if path.endswith('.json') else None
        for folder, _, names in os.walk(path):  # CityScapesMetric writes thousands of pictures into one
            count = sum(_is_new(os.path.join(folder, name), since) for name in names)
            if count:
                written[os.path.join(folder, '')] = count
    return dict(sorted(written.items()))


def metric_types(evaluator: Any) -> List[str]:
    """Names of the types of a config's evaluators."""
    return [str(node['type']).rpartition('.')[2] for _, node in walk(evaluator) if 'type' in node]


def _writing_only(evaluator: Any) -> Iterator[Tuple[str, Dict[str, Any]]]:
    return ((path, node) for path, node in walk(evaluator) if node.get('format_only'))


def _is_new(path: str, since: float) -> bool:
    return os.path.isfile(path) and os.path.getmtime(path) >= since


def _count(path: str) -> Optional[int]:
    """Number of results, counted without parsing, which would take gigabytes of memory for COCO's test-dev."""
    if not os.path.getsize(path):
        return None
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        count, place, key = 0, -1, b'"image_id"'
        while (place := content.find(key, place + 1)) != -1:
            count += 1
        return count
