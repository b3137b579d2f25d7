"""Configs in MMEngine's pure Python style, made from configs in text."""

import inspect
from collections import defaultdict

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry

REGISTRIES = [each for _, each in inspect.getmembers(mmengine_registry, lambda each: isinstance(each, Registry))]


def class_named(name, scope):
    """The class that a type in text is, by any of the registries."""
    for root in REGISTRIES:
        with root.switch_scope_and_registry(scope) as registry:
            found = registry.get(name)
        if inspect.isclass(found):
            return found
    return None


def pure_python(cfg):
    """The text of a config whose types are classes: no scope, no names."""
    imports = defaultdict(set)

    def text(value):
        if isinstance(value, dict):
            kind = class_named(value['type'], cfg.default_scope) if isinstance(value.get('type'), str) else None
            items = {key: text(item) for key, item in value.items() if key != '_scope_'}
            if kind:
                imports[kind.__module__].add(kind.__name__)
                items['type'] = kind.__name__
            return '{' + ', '.join(f'{key!r}: {item}' for key, item in items.items()) + '}'
        if isinstance(value, list):
            return f"[{', '.join(map(text, value))}]"
        if isinstance(value, tuple):
            return f"({''.join(f'{text(item)}, ' for item in value)})"
        return repr(value)

    entries = [f'{key} = {text(cfg[key])}' for key in cfg if key not in ('custom_imports', 'default_scope')]
    lines = [f"from {module} import {', '.join(sorted(names))}" for module, names in imports.items()]
    return '\n'.join([*lines, *entries]) + '\n'
