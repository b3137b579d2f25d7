"""Pictures of a test that do not overwrite each other."""

import os
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence

from mmengine.hooks import Hook
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.runner import Runner

from mmfasternet.registry import HOOKS


@HOOKS.register_module()
class PicturesHook(Hook):
    """Has another hook draw, and where images of the test have the same bare name, into folders as theirs are.

    MMDetection's and MMPretrain's hooks call a picture by the bare name of its
    image, and write ``cat/1.jpg`` over ``dog/1.jpg``.

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
    """The images of a data set, each once; none where it does not tell them."""
    if not hasattr(dataset, 'get_data_info'):
        return []
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    return sorted({os.path.abspath(info['img_path']) for info in infos if info.get('img_path')})
