"""Imports without remarks on packages that are not there, and that nobody asked for."""

import io
from contextlib import contextmanager, redirect_stdout
from typing import Iterator

_REMARK = 'Could not import OneDL'  # MMDetection's maintained releases print it, and can do nothing else for us


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Within it, modules are imported; what they print comes after them, without those remarks."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            if not line.startswith(_REMARK):
                print(line)
