"""Reads a config from its file, applies the command line and the environment, and turns types into strings."""

import copy
import hashlib
import inspect
import json
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import torch
from mmengine import registry as mmengine_registry
from mmengine.config import Config, ConfigDict
from mmengine.config.utils import ConfigParsingError
from mmengine.registry import MODELS, Registry
from mmengine.utils import get_object_from_string

from mmfasternet.config_files import config_path
from mmfasternet.config_tree import walk
from mmfasternet.errors import UserError

#: Keys that name classes and functions; the last one is of the config itself.
_TYPE_KEYS = ('type', 'constructor', 'runner_type')
#: What MMEngine takes dicts for.
_SECTIONS = ('model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'val_cfg', 'test_cfg',
             'optim_wrapper', 'default_hooks', 'visualizer', 'env_cfg', 'randomness')
_COCO_ROOT = 'data/coco/'  # where MMDetection's configs look for COCO
#: Packages that registries import by themselves.
_KNOWN_PACKAGES = ('mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'mmfasternet', 'torch', 'torchvision')


def load_config(path: str,
                options: Optional[Dict[str, Any]] = None,
                work_dir: Optional[str] = None,
                launcher: str = 'none') -> Config:
    """Read a config of MMDetection or MMPretrain.

    Args:
        path: The config file, or the name of one that comes with the package,
            such as ``'mask_rcnn_fasternet_s_1x_coco'``.
        options: Values that replace the config's, by dotted keys, as from
            ``--cfg-options``. Defaults to None.
        work_dir: Folder for logs and checkpoints. Defaults to None: the
            config's own, else ``work_dirs/`` and the config's name.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
            Defaults to ``'none'``.

    Returns:
        The config, with types as strings. If the environment variable
        ``MMDET_DATASETS`` is set, it replaces ``data/coco/`` everywhere.

    Raises:
        UserError: If there is no such file, it can't be read, an option does
            not apply, or a plain value is in the place of a section, such as
            ``model``.
    """
    if not Path(path).is_file():
        path = _named(path)
    cfg = with_text_types(_from_file(path))
    _update_coco_root(cfg)
    if options:
        _merge(cfg, options, path)
    for key in _SECTIONS:
        if isinstance(cfg.get(key), (str, int, float)):
            raise UserError(f"config '{path}': {key} must be a dict, got {cfg[key]!r}")
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(path).stem)
    cfg.launcher = launcher
    return cfg


def config_digest(cfg: Config, *keys: str) -> str:
    """A hash (twelve hexadecimal digits) of the content of a config's entries, independent of the file's name.

    Args:
        cfg: The config, with types as strings.
        keys: The entries, by dotted keys; missing ones count as None.
    """
    content = [(key, _entry(cfg, key)) for key in keys]
    text = json.dumps(content, default=_text_of, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _text_of(value: Any) -> str:
    """An object's representation without its memory address, which differs between processes."""
    return re.sub(r' at 0x[0-9a-f]+', '', repr(value))


def _entry(cfg: Config, key: str) -> Any:
    node: Any = cfg
    for part in key.split('.'):
        node = node.get(part) if isinstance(node, (Config, dict)) else None
    return node


def _from_file(path: str) -> Config:
    try:
        return Config.fromfile(path)
    except SyntaxError as error:
        place = f'line {error.lineno}: {error.msg}'  # MMEngine does not name the file
        raise UserError(f"config '{path}', or one that it inherits from, is not valid Python in {place}") from None
    except FileNotFoundError as error:
        if not error.filename:
            raise
        raise UserError(f"config '{path}' needs '{error.filename}', which does not exist. Check its _base_") from None
    except ConfigParsingError as error:
        raise UserError(f"config '{path}' can't be read: {str(error).strip().splitlines()[0]}") from None


def _merge(cfg: Config, options: Dict[str, Any], path: str) -> None:
    for key, value in options.items():
        # MMEngine's parser would split it.
        if isinstance(value, str) and ',' in value and isinstance(_value_at(cfg, key), (list, tuple)):
            raise UserError(f"--cfg-options {key}={value}: it is a list in {path}, so write '{key}=[{value}]'")
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, IndexError, AssertionError) as error:
        raise UserError(f'--cfg-options do not apply to {path}: {error}') from None
    except AttributeError:  # MMEngine merges into list items
        raise UserError(f'--cfg-options do not apply to {path}: in a list, only values in its dicts can be replaced. '
                        'Give the whole list') from None


def _value_at(cfg: Config, key: str) -> Any:
    value: Any = cfg
    for name in key.split('.'):
        if isinstance(value, (list, tuple)) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, (dict, Config)):
            value = value.get(name)
        else:
            return None
    return value


def _named(name: str) -> str:
    try:
        return config_path(name)
    except UserError as error:
        raise UserError(f"config '{name}' is not a file, and {error}") from None


def _update_coco_root(cfg: Config) -> None:
    root = os.environ.get('MMDET_DATASETS')
    if not root:
        return

    def replaced(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(replaced(item) for item in value)
        if isinstance(value, str) and value.startswith(_COCO_ROOT):
            return f"{root.rstrip('/')}/{value[len(_COCO_ROOT):]}"
        return value

    for key in list(cfg):
        cfg[key] = replaced(cfg[key])
    for _, node in walk([cfg[key] for key in cfg]):
        for key, value in node.items():
            node[key] = replaced(value)


def with_text_types(cfg: Config) -> Config:
    """A copy of a config in which types are strings, as MMDetection's own code expects.

    Configs in MMEngine's pure Python style hold classes and functions. Each is
    replaced by the string that a text config would use: its name in the
    registry, with the scope if the config's own scope has another type of that
    name; its name among mmcv's operators; or its import path if no registry
    knows it. PyTorch dtypes become strings, too. A config without a default
    scope gets that of its model.

    Args:
        cfg: The config, which is not changed.
    """
    # to_dict() leaves out the names that such a config imports.
    # With the text given, the file is not read again: it may be gone.
    copied = Config({key: _plain(cfg[key]) for key in cfg.to_dict()}, cfg_text=cfg.text or ' ', filename=cfg.filename,
                    env_variables=cfg.env_variables)
    nodes: List[Any] = [copied, *(node for _, node in walk([copied[key] for key in copied]))]
    found = [(node, key) for node in nodes for key in _TYPE_KEYS if callable(node.get(key))]
    if not found:
        return copied
    if not copied.get('default_scope') and callable(copied.get('model', {}).get('type')):
        package = str(copied.model.type.__module__).partition('.')[0]
        copied.default_scope = 'mmpretrain' if package == 'mmpretrain' else 'mmdet'
    modules = set()
    for node, key in found:
        kind = node[key]
        node[key] = _text_type(kind, copied.get('default_scope'))
        if isinstance(node[key], str) and kind.__module__.partition('.')[0] not in _KNOWN_PACKAGES:
            modules.add(kind.__module__)
    if modules:
        add_imports(copied, sorted(modules))
    return copied


def _plain(value: Any) -> Any:
    """A copy with lazily imported objects resolved."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return str(value).removeprefix('torch.') if isinstance(value, torch.dtype) else copy.deepcopy(value)


def add_imports(cfg: Config, modules: List[str]) -> None:
    """Make a config import modules, in place, in addition to those that it already imports."""
    own = copy.deepcopy(cfg.get('custom_imports') or {})
    imports = own.get('imports') or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    own['imports'] = [*imports, *(module for module in modules if module not in imports)]
    cfg.custom_imports = dict(own, allow_failed_imports=own.get('allow_failed_imports', False))


def _text_type(kind: Any, scope: Optional[str]) -> Any:
    for root in _registries():
        for name, each in {root.scope: root, **root.children}.items():
            for key in (key for key, value in each.module_dict.items() if value is kind):
                from_here = root.children.get(scope, root) if scope else root
                return key if from_here.get(key) is kind else f'{name}.{key}'
    module, name = str(getattr(kind, '__module__', None)), str(getattr(kind, '__qualname__', None))
    if module.startswith('mmcv.ops.') and getattr(import_module('mmcv.ops'), name, None) is kind:
        return name  # such as nms and RoIAlign, which are looked up there
    path = f'{module}.{name}'
    try:
        return path if get_object_from_string(path) == kind else kind
    except (ImportError, AttributeError, ValueError):
        return kind  # of a function, or of the config's own file: it has no path


def _registries() -> Iterator[Registry]:
    for _, value in inspect.getmembers(mmengine_registry, lambda value: isinstance(value, Registry)):
        yield value


def model_of(cfg: Config) -> ConfigDict:
    """A copy of the model's config with the config's top-level preprocessor, as MMEngine's runner builds it.

    A preprocessor in the model's own config takes precedence, even ``None``.
    """
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return model


def scope_of(cfg: Config) -> str:
    """The scope of a config's types: MMDetection's by default."""
    return cfg.get('default_scope') or 'mmdet'


def class_of(config: Dict[str, Any], registry: Registry, scope: Optional[str] = None) -> Any:
    """The class or function that a part of a config names with ``type``; None if it is unknown.

    Args:
        config: The part.
        registry: The registry to look it up in, such as MMEngine's ``HOOKS``.
        scope: The scope of the config. Defaults to None, the current one.
    """
    kind = config.get('type')
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(scope) as found:
        return found.get(kind)


def is_kind(config: Dict[str, Any], kind: Any, registry: Registry, scope: Optional[str] = None) -> bool:
    """Whether a part of a config names exactly this class, under any name, and not a subclass."""
    return class_of(config, registry, scope) is kind


def is_kind_of(config: Dict[str, Any], kind: Any, registry: Registry, scope: Optional[str] = None) -> bool:
    """Whether a part of a config names a class or a subclass of it, under any name."""
    found = class_of(config, registry, scope)
    return isinstance(found, type) and issubclass(found, kind)


def innermost_dataset(cfg: Config, split: str = 'test', first: bool = False) -> ConfigDict:
    """The dataset of the test split, or another, without its wrappers; with ``first``, also of joined ones.

    Raises:
        UserError: If the config has no such data.
    """
    if not cfg.get(f'{split}_dataloader'):
        what = 'pipeline is' if split == 'test' else 'images are'
        raise UserError(f"config '{cfg.filename}' has no {split}_dataloader, whose {what} needed")
    dataset = cfg[f'{split}_dataloader'].dataset
    while 'dataset' in dataset or first and dataset.get('datasets'):
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset


def test_steps(cfg: Config) -> List[ConfigDict]:
    """The pipeline of the test data, of the first ones if several are joined.

    Raises:
        UserError: If the config has none.
    """
    dataset = innermost_dataset(cfg, first=True)
    if 'pipeline' not in dataset:
        raise UserError(f"config '{cfg.filename}' has no pipeline in test_dataloader.dataset, which is needed")
    return dataset.pipeline


def image_channels_of(cfg: Config) -> int:
    """Input channels of a config's model, which may be wrapped for test-time augmentation."""
    model = cfg.model.get('module', cfg.model)
    return (model.get('backbone') or {}).get('in_channels', 3)


def is_classifier(cfg: Config) -> bool:
    """Whether the model, possibly wrapped for test-time augmentation, is an MMPretrain classifier."""
    kind = class_of(cfg.model.get('module', cfg.model), MODELS, scope_of(cfg))
    return any(base.__name__ == 'BaseClassifier' and base.__module__.startswith('mmpretrain.')
               for base in getattr(kind, '__mro__', ()))
