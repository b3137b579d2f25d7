"""NumPy arrays and numbers in a checkpoint, rebuilt without numpy's own unpickling.

numpy's constructors and ``__setstate__`` trust their arguments: a file could
make them use its bytes as pointers, or read past the end of a buffer. The
classes here replace numpy's under the same names, and take plain numbers only.
"""

import re
from pickle import UnpicklingError
from typing import Any, Tuple

import numpy as np

_CODE = re.compile(r'[biufc]\d{1,2}$')  # bool, integers, floats, complex


class DType:
    """Stands in for ``numpy.dtype``, and is pickled as one."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not isinstance(code, str) or not _CODE.match(code):
            raise UnpicklingError(f'attribute numpy.dtype({code if isinstance(code, str) else ""})')
        self.value = np.dtype(code)

    def __reduce__(self) -> Any:
        return self.value.__reduce__()

    def __setstate__(self, state: Tuple[Any, ...]) -> None:
        """Set the byte order; sub-arrays, fields and custom sizes are refused, since they are more than a number."""
        order, details, sizes = state[1], state[2:5], state[5:7]
        if order not in ('<', '>', '|', '=') or any(part is not None for part in details) or sizes != (-1, -1):
            raise UnpicklingError('attribute numpy.dtype.__setstate__')
        self.value = self.value.newbyteorder(order)


class Array(np.ndarray):
    """Stands in for ``numpy.ndarray``, and is pickled as one."""

    def __new__(cls) -> 'Array':
        return super().__new__(cls, (0, ))

    def __setstate__(self, state: Tuple[Any, ...]) -> None:
        """Set shape and bytes, which numpy checks against each other, and a type of plain numbers."""
        _, shape, dtype, fortran_order, data = state
        if type(dtype) is not DType or type(data) is not bytes:
            raise UnpicklingError('attribute numpy.ndarray.__setstate__')
        state = (1, shape, dtype.value, bool(fortran_order), data)
        super().__setstate__(state)  # type: ignore[arg-type]  # numpy 2.5 refuses its own bool

    def __reduce__(self) -> Any:
        return np.asarray(self).view(np.ndarray).__reduce__()


def reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    """Stands in for ``numpy.core.multiarray._reconstruct``, which makes the array that then gets its state."""
    if kind is not Array:
        raise UnpicklingError('attribute numpy.core.multiarray._reconstruct')
    return Array()


def scalar(dtype: Any, data: Any) -> np.generic:
    """Stands in for ``numpy.core.multiarray.scalar``."""
    if type(dtype) is not DType or type(data) is not bytes or len(data) != dtype.value.itemsize:
        raise UnpicklingError('attribute numpy.core.multiarray.scalar')
    return np.frombuffer(data, dtype.value)[0]


#: The stand-ins, under numpy's names in the releases 1 and 2.
ALLOWED = (
    (DType, 'numpy.dtype'),
    (Array, 'numpy.ndarray'),
    *((function, f'numpy.{core}.multiarray.{name}') for core in ('core', '_core')
      for function, name in ((reconstruct, '_reconstruct'), (scalar, 'scalar'))),
)
