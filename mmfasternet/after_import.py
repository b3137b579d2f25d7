"""Runs actions once another package's module is imported, without importing it: for registrations in large packages."""

import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Callable, Dict, Optional, Sequence, Set

_Action = Callable[[], None]


class _ActingLoader(Loader):
    """The module's own loader, followed by an action."""

    def __init__(self, loader: Any, action: _Action) -> None:
        self.loader = loader
        self.action = action

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)  # such as get_source(), for callers that find the module without loading it

    def create_module(self, spec: ModuleSpec) -> Optional[ModuleType]:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        _act(module.__name__, self.action)


class _Finder(MetaPathFinder):
    """Finds modules with the other finders, and adds the actions to their loaders."""

    def __init__(self) -> None:
        self.actions: Dict[str, _Action] = {}
        self.finding: Set[str] = set()

    def find_spec(self, name: str, path: Optional[Sequence[str]], target: Any = None) -> Optional[ModuleSpec]:
        if name not in self.actions or name in self.finding:
            return None
        self.finding.add(name)  # find_spec() calls this finder again; the import lock excludes other threads
        try:
            spec = find_spec(name)
        finally:
            self.finding.discard(name)
        if spec is not None and hasattr(spec.loader, 'exec_module'):
            spec.loader = _ActingLoader(spec.loader, self.actions[name])
        return spec


_FINDER = _Finder()


def after_import(module: str, action: _Action) -> None:
    """Run an action once a module is imported: now if it already is, else later, and again if it is reloaded.

    A failed action is only a warning, because another program does the import.

    Args:
        module: Its full name. Only the first action for a module counts.
        action: The action.
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
