"""Mask files: one object per file, or label maps, whose values are the objects."""

import os
from os import PathLike
from typing import Iterator, NamedTuple, Optional, Tuple, Union

import cv2
import numpy as np
from PIL import Image

from mmfasternet.errors import DataError

#: A path.
StrPath = Union[str, 'PathLike[str]']

_TRANSPOSED = (5, 6, 7, 8)  # values of Exif's orientation that swap height and width
_ORIENTATION = 0x0112


class Piece(NamedTuple):
    """A mask cropped to its object.

    Attributes:
        x: Its left edge in the image, in pixels.
        y: Its upper edge.
        pixels: ``(h, w)`` bool.
    """
    x: int
    y: int
    pixels: np.ndarray


def image_size(path: StrPath) -> Tuple[int, int]:
    """Height and width of an image as loaded, with its Exif rotation.

    Only the header is read, except of rotated images that are neither JPEG
    nor PNG.

    Raises:
        DataError: If it is missing, or not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(_ORIENTATION) not in _TRANSPOSED:
                return height, width
            if image.format in ('JPEG', 'PNG'):
                return width, height
        loaded = cv2.imread(os.fspath(path))  # whether it is turned depends on OpenCV's release
        return (height, width) if loaded is None else loaded.shape[:2]
    except Exception as error:  # the decoders raise whatever they like
        raise _unreadable('image', path, error) from None


def read_mask(path: StrPath) -> np.ndarray:
    """The mask of one object: ``(H, W)`` bool, true where a pixel is not black.

    Raises:
        DataError: If the file is missing, broken or a JPEG.
    """
    with _opened('mask', path) as image:
        if image.mode in ('P', 'PA', 'LA', 'RGBA', 'CMYK', 'YCbCr'):
            image = image.convert('RGB')  # an alpha channel says nothing of the object
        pixels = np.asarray(image) != 0
    return pixels.any(axis=2) if pixels.ndim == 3 else pixels


def read_label_map(path: StrPath) -> np.ndarray:
    """A label map, ``(H, W)``, in the file's own type: 8 or 16 bits, palette indices, 32-bit TIFF.

    Raises:
        DataError: If the file is missing, broken, a JPEG, or a colour image.
    """
    with _opened('label map', path) as image:
        pixels = np.asarray(image)
    if pixels.ndim != 2:
        raise DataError(f"label map '{path}' holds colours ({image.mode}), not a value for each object. Save the "
                        f'values as 8- or 16-bit PNG or 32-bit TIFF')
    return pixels


def piece_of(mask: np.ndarray) -> Optional[Piece]:
    """A mask ``(H, W)`` cropped to its object; None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    y, x = int(rows[0]), int(columns[0])
    return Piece(x, y, mask[y:rows[-1] + 1, x:columns[-1] + 1] != 0)


def pieces_of(labels: np.ndarray) -> Iterator[Tuple[int, Piece]]:
    """The nonzero values of a label map ``(H, W)`` in increasing order, each with its pixels."""
    ys, xs = np.nonzero(labels)
    values = labels[ys, xs]
    order = np.argsort(values, kind='stable')
    found, starts = np.unique(values[order], return_index=True)
    for value, pixels in zip(found, np.split(order, starts[1:])):
        y, x = ys[pixels], xs[pixels]
        mask = np.zeros((y.max() - y.min() + 1, x.max() - x.min() + 1), bool)
        mask[y - y.min(), x - x.min()] = True
        yield int(value), Piece(int(x.min()), int(y.min()), mask)


def _opened(what: str, path: StrPath) -> Image.Image:
    try:
        image = Image.open(path)
        pages = getattr(image, 'n_frames', 1)
        image.load()
    except Exception as error:  # the decoders raise whatever they like
        raise _unreadable(what, path, error) from None
    if pages > 1:
        raise DataError(f"{what} '{path}' has {pages} pages. Save each page as its own file")
    if image.format != 'JPEG':
        return image
    raise DataError(f"{what} '{path}' is a JPEG, which changes values at the edges of objects. Export it as PNG")


def _unreadable(what: str, path: StrPath, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{what} '{path}' does not exist")
    reason = (getattr(error, 'strerror', None) or str(error) or type(error).__name__).splitlines()[-1]
    return DataError(f"{what} '{path}' can't be read ({reason}). Download it again, or leave its image out")
