"""Walks a config: all dicts in it, however nested."""

from typing import Any, Dict, Iterator, Tuple


def walk(value: Any, path: str = '') -> Iterator[Tuple[str, Dict[str, Any]]]:
    """All dicts in a config, outer before inner ones, each with its path.

    Args:
        value: A config, or a part of one: dicts, lists and tuples; anything
            else is a leaf.
        path: Path of ``value`` itself. Defaults to ``''``.

    Yields:
        Paths such as ``'model.roi_head.bbox_head[0]'``, and the dicts. Entries
        that the caller adds to a yielded dict are walked, too.
    """
    if isinstance(value, dict):
        yield path, value
        for key in list(value):
            yield from walk(value[key], f'{path}.{key}' if path else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from walk(item, f'{path}[{index}]')
