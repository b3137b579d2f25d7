"""How the user started this program."""

import shlex
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def program() -> str:
    """The command before the arguments: ``mmfasternet``, ``python -m mmfasternet`` or ``python tools/train.py``."""
    path = Path(sys.argv[0])
    if path.name == _PACKAGE.name:
        return path.name
    if path.name == '__main__.py' and path.resolve().parent == _PACKAGE:
        return f'python -m {_PACKAGE.name}'
    return f'python {shlex.quote(sys.argv[0])}'


def called_as(command: str) -> str:
    """How the user calls one of our commands: ``mmfasternet train``, or the corresponding script."""
    typed = program()
    if typed.split()[-1] == _PACKAGE.name:
        return f'{typed} {command}'
    return typed if Path(sys.argv[0]).parent.name == 'tools' else f'{_PACKAGE.name} {command}'
