"""``--cfg-options KEY=VALUE ...``: config values on the command line; strings stay exactly as typed."""

import argparse
from typing import Any, Iterator, List, Optional, Tuple

_PAIRS = {'[': ']', '(': ')'}
_QUOTES = ('"', "'")


class ConfigOptions(argparse.Action):
    """Collects ``KEY=VALUE`` in a dict, also over several ``--cfg-options``; the last value of a repeated key counts.

    MMEngine's ``DictAction`` takes the same values, but deletes the spaces in
    strings, and turns those with a comma or in brackets into lists.
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
    """Parse a value.

    Args:
        text: A number (without ``_``), ``true``, ``false`` or ``None``; ``[...]`` a list or
            ``(...)`` a tuple of values, which may be nested; or numbers,
            ``true``, ``false`` or ``None`` separated by commas, a list.
            Anything else is a string as it is, and so is anything in quotes; in
            a list, the spaces around it are dropped.

    Raises:
        ValueError: If the bracket that ``text`` begins with is never closed.
            Other unmatched brackets are part of a string, such as ``a]``.
    """
    if text[:1] in _QUOTES and text.find(text[0], 1) == len(text) - 1 > 0:
        return text[1:-1]
    if text[:1] in _PAIRS:
        end = next((index for index, _, depth in _signs(text) if depth == 0), -1)
        if end == -1:
            raise ValueError(f"the brackets in '{text}' don't match. Put a string with brackets in quotes")
        if end == len(text) - 1:
            items = [parse_value(item.strip()) for item in _items(text[1:-1])]
            return items if text[0] == '[' else tuple(items)
    if ',' in text:
        values = [_scalar(part.strip()) for part in text.removesuffix(',').split(',')]
        # Those who know MMEngine type lists so, and such values are never the name of something.
        return text if any(isinstance(value, str) for value in values) else values
    return _scalar(text)


def _scalar(text: str) -> Any:
    # Python also reads 2024_05_01 as a number, and digits of other scripts.
    for kind in (int, float) if text.isascii() and '_' not in text else ():
        try:
            return kind(text)
        except ValueError:
            pass
    return {'true': True, 'false': False}.get(text.lower(), None if text == 'None' else text)


def _items(text: str) -> Iterator[str]:
    """Split at commas outside of brackets and quotes; the last part may be followed by a comma."""
    start = 0
    for index, sign, depth in _signs(text):
        if sign == ',' and not depth:
            yield text[start:index]
            start = index + 1
    if text[start:].strip():
        yield text[start:]


def _signs(text: str) -> Iterator[Tuple[int, str, int]]:
    """Each character outside of quotes, with its position and the number of brackets open after it."""
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
