"""Segmentations in COCO format: polygons, and run-length encodings, compressed to a string or not."""

from typing import Any, List, Optional, Tuple

import numpy as np

#: Of a coordinate: pycocotools allocates memory for each pixel of a polygon's outline.
MAX_PIXELS = 1e6
_MAX_DIGITS = 12  # of a run, of five bits each


def mask_problem(segmentation: Any, size: Optional[Tuple[int, int]] = None) -> Optional[str]:
    """What is wrong with a segmentation, as the end of a sentence; None if it is valid.

    Polygons that enclose nothing are valid: MMDetection ignores their object;
    see :func:`usable_polygons`.

    Args:
        segmentation: The value in the file.
        size: Height and width of its image. Defaults to None, not known.
    """
    if isinstance(segmentation, dict):
        return _encoding_problem(segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        return f'is {repr(segmentation)[:40]}, which is neither a list of polygons nor a run-length encoding'
    if not all(isinstance(polygon, list) for polygon in segmentation):
        return f'is {repr(segmentation)[:40]}, not a list of polygons (each polygon must be a list)'
    for polygon in segmentation:
        kinds = set(map(type, polygon))
        if list in kinds:
            return f'has the points {repr(polygon)[:40]} as pairs: a polygon is [x, y, x, y, ...] in one list'
        if not kinds <= {int, float}:
            return f'has the polygon {repr(polygon)[:40]}, which does not consist of numbers'
        if polygon and not -MAX_PIXELS <= min(polygon) <= max(polygon) <= MAX_PIXELS or sum(polygon) != sum(polygon):
            return f'has the polygon {repr(polygon)[:40]}, which lies outside of any image'
    if len(segmentation) > 2 and all(len(polygon) == 2 for polygon in segmentation):
        return 'has its points as pairs: a polygon is [x, y, x, y, ...] in one list'
    return None


def usable_polygons(segmentation: Any, pairs: bool = True) -> List[List[float]]:
    """The polygons with three points or more.

    Args:
        segmentation: A list of polygons.
        pairs: Also leave out polygons with an odd number of coordinates, as
            MMDetection does in training; pycocotools drops the last
            coordinate. Defaults to True.
    """
    return [polygon for polygon in segmentation if len(polygon) >= 6 and not (pairs and len(polygon) % 2)]


def _encoding_problem(encoding: Any, size: Optional[Tuple[int, int]]) -> Optional[str]:
    shape, counts = encoding.get('size'), encoding.get('counts')
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(side) is int and side > 0 for side in shape)):
        return f"is a run-length encoding of the size {repr(shape)[:40]}, not of [height, width]"
    if size and tuple(shape) != tuple(size):
        return (f'is a run-length encoding of size {shape}, but its image has height and width '
                f'{[int(side) for side in size]}')
    lengths = run_lengths(counts)
    if lengths is None or min(lengths, default=0) < 0 or sum(lengths) != shape[0] * shape[1]:
        return (f'is a run-length encoding whose counts {repr(counts)[:40]} do not add up to its '
                f'{shape[0]} x {shape[1]} pixels')
    return None


def run_lengths(counts: Any) -> Optional[List[int]]:
    """The runs of an encoding, or None if it can't be read.

    Args:
        counts: The list of runs, or pycocotools' string for it: each number in
            base-32 digits, least significant first, each with a sixth bit that
            tells whether more follow; from the fourth number on, the
            difference from the number two places before.
    """
    if isinstance(counts, list):
        return counts if set(map(type, counts)) <= {int} else None
    if not isinstance(counts, str) or not counts.isascii() or not counts:
        return None
    digits = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 32 == 0)
    if digits.min() < 0 or digits.max() > 63 or not ends.size or ends[-1] != digits.size - 1:
        return None
    starts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - starts + 1
    if sizes.max() > _MAX_DIGITS:
        return None
    shifts = 5 * (np.arange(digits.size) - np.repeat(starts, sizes))
    runs = np.add.reduceat((digits & 31) << shifts, starts) - (digits[ends] >> 4 & 1) * (1 << 5 * sizes)
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs.tolist()
