"""Standard output without remarks on packages that are missing and not needed."""

import sys
from contextlib import contextmanager, redirect_stdout
from typing import Any, Iterator

_REMARK = 'Could not import OneDL'  # printed by MMDetection's maintained releases


class _WithoutRemarks:
    """A stream that passes everything on but those lines, each with the end that ``print`` writes by itself."""

    def __init__(self, out: Any) -> None:
        self._out, self._skips_end = out, False

    def write(self, text: str) -> int:
        if text.startswith(_REMARK):
            self._skips_end = not text.endswith('\n')
        elif self._skips_end and text == '\n':
            self._skips_end = False
        else:
            self._out.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Within it, what imported modules say on missing packages is not printed."""
    with redirect_stdout(_WithoutRemarks(sys.stdout)):
        yield
