"""Actions once another package's module is imported, without importing it: registrations with packages that are big."""

import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Callable, Dict, Optional, Sequence, Set

_Action = Callable[[], None]


class _ActingLoader(Loader):
    """The module's own loader, and an action behind it."""

    def __init__(self, loader: Any, action: _Action) -> None:
        self.loader = loader
        self.action = action

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)  # such as get_source(), for who finds the module and does not load it

    def create_module(self, spec: ModuleSpec) -> Optional[ModuleType]:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        _act(module.__name__, self.action)


class _Finder(MetaPathFinder):
    """Finds modules as they would be found without it, and has their actions follow."""

    def __init__(self) -> None:
        self.actions: Dict[str, _Action] = {}
        self.finding: Set[str] = set()

    def find_spec(self, name: str, path: Optional[Sequence[str]], target: Any = None) -> Optional[ModuleSpec]:
        if name not in self.actions or name in self.finding:
            return None
        self.finding.add(name)  # find_spec() asks here again; of two threads, one has the import's lock
        try:
            spec = find_spec(name)
        finally:
            self.finding.discard(name)
        if spec is not None and hasattr(spec.loader, 'exec_module'):
            spec.loader = _ActingLoader(spec.loader, self.actions[name])
        return spec


_FINDER = _Finder()


def after_import(module: str, action: _Action) -> None:
    """Do something once a module is imported: now if it is, else then, and again if it is reloaded.

    An action that fails is a warning: the import is somebody else's.

    Args:
        module: Its full name. The first action for it holds.
        action: What to do.
    """
    if module in _FINDER.actions:
        return
    _FINDER.actions[module] = action
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    if module in sys.modules:
        _act(module, action)


def _act(module: str, action: _Action) -> None:
    try:
        action()
    except Exception as error:
        warnings.warn(f'mmfasternet: names could not be added to {module}: {error!r}', stacklevel=2)
