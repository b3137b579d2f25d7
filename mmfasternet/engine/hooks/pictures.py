"""Keeps the drawn pictures of a test from overwriting each other."""

import os
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence

from mmengine.hooks import Hook
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.runner import Runner

from mmfasternet.registry import HOOKS


@HOOKS.register_module()
class PicturesHook(Hook):
    """Wraps a hook that draws; if test images share a bare file name, their pictures keep the images' folders.

    MMDetection's and MMPretrain's hooks name a picture after its image's bare
    file name, and overwrite ``dog/1.jpg`` with ``cat/1.jpg``.

    Args:
        hook: Config of that hook, of type ``'DetVisualizationHook'`` or
            ``'VisualizationHook'``.
    """

    priority = 'LOWEST'

    def __init__(self, hook: Dict[str, Any]) -> None:
        self.hook: Any = MMENGINE_HOOKS.build(hook)
        self._place = 'test_out_dir' if hasattr(self.hook, 'test_out_dir') else 'out_dir'
        self._root: Optional[str] = None

    def before_test(self, runner: Runner) -> None:
        paths = _image_paths(runner.test_dataloader.dataset)
        names = Counter(map(os.path.basename, paths))
        self._root = os.path.commonpath(list(map(os.path.dirname, paths))) if len(names) < len(paths) else None

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                        outputs: Optional[Sequence[Any]] = None) -> None:
        if self._root is None or not outputs:
            self.hook.after_test_iter(runner, batch_idx, data_batch, outputs)
            return
        folder = getattr(self.hook, self._place)
        try:
            for index, sample in enumerate(outputs):
                below = os.path.relpath(os.path.dirname(os.path.abspath(sample.img_path)), self._root)
                setattr(self.hook, self._place, os.path.normpath(os.path.join(folder, below)))
                one = dict(data_batch, inputs=data_batch['inputs'][index:index + 1])
                self.hook.after_test_iter(runner, batch_idx * len(outputs) + index, one, [sample])
        finally:
            setattr(self.hook, self._place, folder)


def _image_paths(dataset: Any) -> List[str]:
    """The image paths of a dataset, each once; empty if it does not list them."""
    if not hasattr(dataset, 'get_data_info'):
        return []
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    return sorted({os.path.abspath(info['img_path']) for info in infos if info.get('img_path')})
