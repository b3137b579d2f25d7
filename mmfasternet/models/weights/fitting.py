"""Checks whether weights fit a model: what is missing, unknown or has another shape."""

from typing import Mapping, Sequence, Tuple

Shapes = Mapping[str, Tuple[int, ...]]


def listed(keys: Sequence[str], most: int = 10) -> str:
    """The keys as a string, at most ``most`` of them, with their total number."""
    text = ', '.join(keys[:most])
    return f'{text}, ... ({len(keys)} keys)' if len(keys) > most else text


def misfit(expected: Shapes, found: Shapes, names: Mapping[str, str] = {}) -> str:
    """Why weights do not fit, as a text that follows the file's name; empty if they fit.

    Args:
        expected: Shapes of the required weights, by key.
        found: Shapes of the existing weights, by key.
        names: Names of keys in the text, if they differ from the keys.
    """

    def named(keys: Sequence[str]) -> str:
        return listed([names.get(key, key) for key in keys])

    lacking = [key for key in expected if key not in found]
    unknown = [key for key in found if key not in expected]
    others = [key for key in expected if key in found and tuple(found[key]) != tuple(expected[key])]
    problems = []
    if lacking:
        problems.append(f'lacks {named(lacking)}')
    if unknown:
        problems.append(f'has the unknown {named(unknown)}')
    if others:
        first = others[0]
        problems.append(f'has other shapes for {named(others)}: {tuple(found[first])} instead of '
                        f'{tuple(expected[first])}')
    return ', and '.join(problems)
