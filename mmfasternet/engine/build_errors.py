"""One-line errors for failed builds from a config, which name the config's key."""

import difflib
import inspect
import re
import sys
import traceback
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import MODELS, Registry

from mmfasternet.compat import failed_builds, registered_names
from mmfasternet.config_tree import walk
from mmfasternet.engine.config import model_of
from mmfasternet.errors import ArgumentError, UserError

# Libraries whose errors are about the config; an error that involves other modules may be their fault, and keeps its
# traceback.
_REFUSALS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_LIBRARIES = ('mmcv', 'mmdet', 'mmengine', 'mmfasternet', 'mmpretrain', 'torch')
_NO_OWN = {*_LIBRARIES, *sys.stdlib_module_names}
_UNKNOWN_KEY = re.compile(r"got an unexpected keyword argument '(\w+)'")
_NEEDED_KEYS = re.compile(r"missing \d+ required .*?arguments?: (.*)")

Found = Tuple[str, Dict[str, Any]]


@contextmanager
def named_build_errors(cfg: Config) -> Iterator[None]:
    """Within it, a registry's failure to build from a config becomes an error that names the config's key.

    Raises:
        UserError: Instead of what MMEngine, MMDetection, MMPretrain, mmcv or PyTorch raise while a part is built.
    """
    try:
        yield
    except Exception as error:
        text = _line(cfg, error)
        if text is None:
            raise
        raise UserError(text) from error


def unknown_type(where: str, name: str, registry: Registry) -> str:
    """One line about a type that no registry knows, with similar names."""
    known: Dict[str, List[str]] = {}
    for registered in registered_names(registry):
        known.setdefault(registered.rpartition('.')[2].lower(), []).append(registered)
    close = difflib.get_close_matches(name.rpartition('.')[2].lower(), known, 3, 0.7)
    near = [registered for key in close for registered in known[key]][:3]
    remedy = f'Similar names: {", ".join(near)}' if near else 'If it is your own, import its module with custom_imports'
    return f"{where}.type is '{name}', which is not a registered {registry.name}. {remedy}"


def _line(cfg: Config, error: Exception) -> Optional[str]:
    """The message for an error; None if it is not from a build, or not from one of the libraries."""
    builds = failed_builds(error)
    if not builds or isinstance(error, UserError) and not isinstance(error, ArgumentError):
        return None
    frame = traceback.extract_tb(error.__traceback__)[-1]
    modules = _behind_the_build(error)
    if not _is_refusal(error) or not {module.partition('.')[0] for module in modules} <= _NO_OWN:
        return None
    config, registry = builds[-1]
    configs = [each for each, _ in builds if isinstance(each, dict)]
    where, node = _place(cfg, configs)
    if not isinstance(config, dict):
        place = next((f'{where}.{name}'.lstrip('.') for name, value in node.items() if _same(value, config)), None)
        return place and f'{place} must be a dict with a type, got {config!r}'
    if node.get('type') != config.get('type'):  # some builders change their config
        where, node = f'a part within {where}' if where else 'a part', config
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    name = str(node.get('type'))
    if isinstance(error, ArgumentError):  # its message begins with the argument
        key = re.split(r'\W', text)[0]
        return f'{where}.{text}' if where and key in node else f'{where or name}: {text}'
    if isinstance(error, KeyError) and text.startswith(f"{config.get('type')} is not in the "):
        return unknown_type(where, name, registry)
    unknown = _unknown_layer(where, node) if isinstance(error, KeyError) else None
    if unknown:
        return unknown
    key = _UNKNOWN_KEY.search(text)
    if key:
        return _unknown_key(where, node, key[1], text, registry)
    needed = _NEEDED_KEYS.search(text)
    if needed and modules[-1] == 'mmengine.registry.build_functions':
        return f'{where} lacks {needed[1]}, which {name} needs'
    mentioned = next((f'{path}.{word}' for word in re.findall(r'\w*_\w*', text) for path, inner in walk(node, where)
                      if word in inner), f'{where} ({name})')
    return f"{mentioned}: {' '.join(text.split()) or frame.line} ({type(error).__name__})"


def _is_refusal(error: Exception) -> bool:
    """Whether an error may be about a value; PyTorch's subclasses of RuntimeError are about memory and processes."""
    of_the_machine = isinstance(error, RuntimeError) and type(error).__module__ != 'builtins'
    return isinstance(error, _REFUSALS) and not of_the_machine


def _behind_the_build(error: Exception) -> List[str]:
    """The modules of an error's frames, from the innermost build on."""
    modules: List[str] = []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get('__name__'))
        is_build = frame.f_code.co_name == 'build_from_cfg' and module == 'mmengine.registry.build_functions'
        modules = [module] if is_build else [*modules, module]
    return modules


def _place(cfg: Config, builds: List[Dict[str, Any]]) -> Found:
    """The innermost part of a config that was being built, with its path as far as known."""
    content = {key: cfg[key] for key in cfg}
    if 'model' in content:
        content['model'] = model_of(cfg)
    where, node = '', content
    for build in builds:
        found = (pair for pair in (*walk(node, where), *walk(content)) if 'type' in pair[1] and all(
            key in build and _same(value, build[key]) for key, value in pair[1].items()))
        # Some detectors remove keys from their config while they are built: then comparing types has to be enough.
        alike = [pair for pair in walk(node, where) if 'type' in pair[1] and pair[1]['type'] == build.get('type')]
        where, node = next(found, alike[0] if len(alike) == 1 else (where, node))
    return where, node


def _same(value: Any, other: Any) -> bool:
    try:
        return bool(value is other or value == other)
    except (ValueError, RuntimeError):  # of arrays
        return False


def _unknown_layer(where: str, node: Dict[str, Any]) -> Optional[str]:
    """A layer that mmcv looks up itself, and does not name in its error."""
    for path, inner in walk(node, where):
        if re.search(r'(norm|act|conv)_cfg$', path) and isinstance(inner.get('type'), str):
            with MODELS.switch_scope_and_registry(None) as registry:
                if registry.get(inner['type']) is None:
                    return unknown_type(path, inner['type'], registry)
    return None


def _unknown_key(where: str, node: Dict[str, Any], key: str, text: str, registry: Registry) -> str:
    path, inner = next(((path, inner) for path, inner in walk(node, where) if key in inner), (where, node))
    owner = text.partition('.__init__')[0]
    kind = inner.get('type')
    if isinstance(kind, str):
        with (registry if inner is node else MODELS).switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    known = {name for base in getattr(kind, '__mro__', ()) for name in _parameters(base)}
    near = difflib.get_close_matches(key, known, 3, 0.6)
    remedy = f'Similar names: {", ".join(near)}' if near else 'Remove it'
    return f'{path}.{key} is not an argument of {owner}. {remedy}'


def _parameters(kind: type) -> List[str]:
    init: Any = vars(kind).get('__init__')
    return [name for name in inspect.signature(init).parameters if name != 'self'] if inspect.isfunction(init) else []
