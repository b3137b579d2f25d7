"""``--cfg-options KEY=VALUE ...``: values of a config on the command line, with every text left as it was typed."""

import argparse
from typing import Any, Iterator, List, Optional, Tuple

_PAIRS = {'[': ']', '(': ')'}
_QUOTES = ('"', "'")


class ConfigOptions(argparse.Action):
    """Collects ``KEY=VALUE`` in a dict, also over several ``--cfg-options``; of a key given twice the last one holds.

    MMEngine's ``DictAction`` takes the same values, but deletes the spaces of
    texts, and makes lists of those with a comma or within brackets.
    """

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: Optional[str] = None) -> None:
        options = dict(getattr(namespace, self.dest) or {})
        for option in values:
            key, equals, value = option.partition('=')
            if not equals:
                parser.error(f"{option_string} takes KEY=VALUE, and '{option}' has no '='")
            if not all(key.split('.')):
                parser.error(f"{option_string} takes KEY=VALUE, and the key of '{option}' is not complete")
            try:
                options[key] = parse_value(value)
            except ValueError as error:
                parser.error(f'{option_string} {key}: {error}')
        setattr(namespace, self.dest, options)


def parse_value(text: str) -> Any:
    """The value that a text stands for.

    Args:
        text: A number, ``true``, ``false`` or ``None``; ``[...]`` a list or
            ``(...)`` a tuple of values, which may be nested; or numbers,
            ``true``, ``false`` or ``None`` with commas between them, a list.
            All else is a text as it is, as is what stands in quotes; in a
            list, without the spaces around it.

    Raises:
        ValueError: If the bracket that ``text`` begins with is never closed.
            Others that don't match are part of a text, such as ``a]``.
    """
    if text[:1] in _QUOTES and text.find(text[0], 1) == len(text) - 1 > 0:
        return text[1:-1]
    if text[:1] in _PAIRS:
        end = next((index for index, _, depth in _signs(text) if depth == 0), -1)
        if end == -1:
            raise ValueError(f"the brackets of '{text}' don't match. Put a text in quotes")
        if end == len(text) - 1:
            items = [parse_value(item.strip()) for item in _items(text[1:-1])]
            return items if text[0] == '[' else tuple(items)
    if ',' in text:
        values = [_scalar(part.strip()) for part in text.removesuffix(',').split(',')]
        # Those who know MMEngine type lists so, and such values are never the name of something.
        return text if any(isinstance(value, str) for value in values) else values
    return _scalar(text)


def _scalar(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {'true': True, 'false': False}.get(text.lower(), None if text == 'None' else text)


def _items(text: str) -> Iterator[str]:
    """The parts between commas that are in no bracket and no quotes; a comma may stand behind the last one."""
    start = 0
    for index, sign, depth in _signs(text):
        if sign == ',' and not depth:
            yield text[start:index]
            start = index + 1
    if text[start:].strip():
        yield text[start:]


def _signs(text: str) -> Iterator[Tuple[int, str, int]]:
    """Each sign with its place, and how many brackets are open behind it; without what is in quotes."""
    quote, begins = '', True
    closing: List[str] = []
    for index, sign in enumerate(text):
        if quote:
            quote = '' if sign == quote else quote
        elif begins and sign in _QUOTES and sign in text[index + 1:]:  # an apostrophe within a word is none
            quote, begins = sign, False
        else:
            if sign in _PAIRS:
                closing.append(_PAIRS[sign])
            elif sign in closing[-1:]:
                closing.pop()
            begins = sign in _PAIRS or sign == ',' or begins and sign == ' '
            yield index, sign, len(closing)
