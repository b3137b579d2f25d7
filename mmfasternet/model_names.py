"""Names of models in MMPretrain's and MMDetection's own lists, once these are imported.

``mmpretrain.get_model`` and the inferencers of both find a model by its name. Both packages are imported by whoever
uses them: ``import mmfasternet`` alone imports neither.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from threading import RLock
from typing import Any, Callable, Dict, Iterator, Optional, Sequence

from mmfasternet.config_files import configs_folder

_Action = Callable[[], None]


class _AfterImport(MetaPathFinder):
    """Calls an action once a module has been imported; the module is found and loaded as it would be without."""

    def __init__(self) -> None:
        self.actions: Dict[str, _Action] = {}
        self.lock = RLock()

    def find_spec(self, name: str, path: Optional[Sequence[str]], target: Any = None) -> Optional[ModuleSpec]:
        with self.lock:
            action = self.actions.pop(name, None)
        if action is None:
            return None
        spec = find_spec(name)  # which asks here again, in vain
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_act(module: Any) -> None:
            execute(module)
            action()

        spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec


_AFTER_IMPORT = _AfterImport()


def add_model_names() -> None:
    """Add our models to both lists: now to that of a package which is imported already, else when it is."""
    actions = {'mmpretrain.apis.model': _add_to_mmpretrain, 'mmengine.infer.infer': _add_to_mmdetection}
    for module, action in actions.items():
        if module in sys.modules:
            action()
        else:
            _AFTER_IMPORT.actions[module] = action
    if _AFTER_IMPORT not in sys.meta_path:
        sys.meta_path.insert(0, _AFTER_IMPORT)


def _add_to_mmpretrain() -> None:
    from mmpretrain.apis.model import ModelHub
    folder = configs_folder()
    if not ModelHub.has('fasternet_t0_in1k'):  # else it would raise, if this module is loaded again
        ModelHub.register_model_index(folder / 'imagenet-metafile.yml', config_prefix=folder.parent)


def _add_to_mmdetection() -> None:
    from mmfasternet.compat import list_models_also
    list_models_also('mmdet', _detectors)


def _detectors() -> Iterator[Dict[str, Any]]:
    """The entries of our detectors, as MMEngine takes them; those without published weights have random ones."""
    from mmengine.fileio import load
    folder = configs_folder()
    for model in load(folder / 'metafile.yml')['Models']:
        yield dict(model, Config=str(folder.parent / model['Config']), Weights=model.get('Weights'))
