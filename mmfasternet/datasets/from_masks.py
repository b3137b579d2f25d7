"""Converts masks in common formats to a file in COCO format.

Label maps have one value per object, as written by Cellpose, LIVECell's authors
or Cityscapes; other datasets have one file per object, as in the 2018 Data
Science Bowl.
"""

import json
import os
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
from pycocotools import mask as coco_mask

from mmfasternet.datasets.mask_files import Piece, StrPath, image_size, piece_of, pieces_of, read_label_map, read_mask
from mmfasternet.datasets.mask_polygons import mask_to_polygons, polygons_overlap
from mmfasternet.errors import ArgumentError, DataError
from mmfasternet.files import write_atomically

Mask = Union[StrPath, np.ndarray]
#: A label map, or a mask for each object.
Masks = Union[Mask, Iterable[Mask]]

#: Ways to write down what belongs to an object.
SEGMENTATIONS = ('polygon', 'rle')


class MasksToCoco:
    """Collects images with their masks, and writes them in COCO format.

    Boxes and areas are those of the masks. An object in several pieces gets
    several polygons, and objects may overlap. Polygons can't have holes, so
    holes are filled; if the overlap with the mask is then below
    ``min_overlap``, the object is stored as a run-length encoding.

    Args:
        classes: Names of the classes, with ids from 1, or a dict of names by
            ids. Defaults to one class, ``'object'``.
        label_divisor: For label maps whose values hold the class:
            ``value // label_divisor`` is its id, as in Cityscapes, where it
            is 1000. Values of other classes are skipped; a value that is
            itself a class id is a crowd of that class (``iscrowd``). Defaults
            to None: values are objects of one class.
        root: Folder that file names of images are relative to. Defaults to
            None: file names without folders.
        segmentation: ``'polygon'``, or ``'rle'`` for run-length encodings,
            which are exact; MMDetection ignores them in pipelines with
            ``poly2mask=False``, such as RTMDet-Ins'. Defaults to
            ``'polygon'``.
        min_overlap: An object whose polygons overlap its mask by less
            (intersection over union) is stored as a run-length encoding; with
            1, every object with a hole is. Defaults to 0.9.

    Attributes:
        empty_masks: Mask files without any pixel; they give no object.
        overlaps: Overlap with its mask of each object stored as polygons
            (intersection over union, computed by pycocotools).

    Raises:
        ArgumentError: If an argument is out of its range; the message names it.

    Example:
        >>> coco = MasksToCoco(classes=['cell'])
        >>> coco.add('images/a.png', 'labels/a.tif')
        >>> coco.add('images/b.png', ['masks/b/1.png', 'masks/b/2.png'])
        >>> coco.write('train.json')
    """

    def __init__(self,
                 classes: Union[Sequence[str], Mapping[int, str]] = ('object', ),
                 label_divisor: Optional[int] = None,
                 root: Optional[StrPath] = None,
                 segmentation: str = 'polygon',
                 min_overlap: float = 0.9) -> None:
        if isinstance(classes, str) or not classes:
            raise ArgumentError(f"classes must be a list of names, such as ['cell'], got {classes!r}")
        names = list(classes.values() if isinstance(classes, Mapping) else classes)
        if len(set(names)) < len(names):
            raise ArgumentError(f'names of classes must differ, got {names}')
        if label_divisor is not None and label_divisor < 2:
            raise ArgumentError(f'label_divisor must be at least 2, got {label_divisor}')
        if segmentation not in SEGMENTATIONS:
            raise ArgumentError(f'segmentation must be one of {", ".join(SEGMENTATIONS)}, got {segmentation!r}')
        if not 0 <= min_overlap <= 1:
            raise ArgumentError(f'min_overlap must be between 0 and 1, got {min_overlap}')
        self.classes = dict(classes) if isinstance(classes, Mapping) else dict(enumerate(classes, 1))
        self.label_divisor, self.root = label_divisor, root
        self.segmentation, self.min_overlap = segmentation, min_overlap
        self.empty_masks: List[str] = []
        self.overlaps: List[float] = []
        self._images: Dict[str, Dict[str, Any]] = {}
        self._annotations: List[Dict[str, Any]] = []

    def add(self, image: StrPath, masks: Union[Masks, Mapping[str, Masks]]) -> None:
        """Add an image and its objects; an image without objects is added as well.

        Args:
            image: The image's file.
            masks: A label map, whose nonzero values are the objects, or a list
                with a mask for each object, whose nonzero pixels belong to it:
                files or arrays ``(H, W)``. For several classes, a dict of
                these by class name.

        Raises:
            DataError: If a file is missing or broken, a mask does not have the
                image's size, or an image of this name was added before. Then
                nothing of the image is added.
        """
        name = self._file_name(Path(image))
        size = image_size(image)
        rows: List[Dict[str, Any]] = []
        empty: List[str] = []
        overlaps: List[float] = []
        for category, piece, crowd in self._objects(image, size, masks, empty):
            segmentation, overlap = self._segmentation(piece, size, crowd)
            height, width = piece.pixels.shape
            rows.append(dict(category_id=category, segmentation=segmentation, area=int(piece.pixels.sum()),
                             bbox=[piece.x, piece.y, width, height], iscrowd=int(crowd)))
            overlaps += [] if overlap is None else [overlap]
        number = len(self._images) + 1
        self._images[name] = dict(id=number, file_name=name, height=size[0], width=size[1])
        first = len(self._annotations) + 1
        self._annotations += [dict(id=first + index, image_id=number, **row) for index, row in enumerate(rows)]
        self.empty_masks += empty
        self.overlaps += overlaps

    @property
    def content(self) -> Dict[str, Any]:
        """The content of the file: ``images``, ``annotations`` and ``categories``."""
        return dict(images=list(self._images.values()), annotations=self._annotations,
                    categories=[dict(id=number, name=name) for number, name in self.classes.items()])

    def summary(self) -> str:
        """One line with the number of images and objects, and how well polygons overlap masks."""
        total, polygons = len(self._annotations), len(self.overlaps)
        line = f'{len(self._images)} images, {total} objects'
        if polygons:
            line += (f'; {polygons} as polygons, whose IoU with the masks is {np.mean(self.overlaps):.4f} on average '
                     f'and {min(self.overlaps):.4f} at least')
        if total > polygons:
            line += f'; {total - polygons} as run-length encodings'
        return line

    def write(self, path: StrPath) -> Path:
        """Write the file atomically; missing folders are made.

        Raises:
            DataError: If no image was added.
        """
        if not self._images:
            raise DataError(f"there is no image to write to '{path}'. Add images first")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return write_atomically(Path(path), json.dumps(self.content).encode())

    def _file_name(self, image: Path) -> str:
        name = _within(image, self.root) if self.root else image.name
        if name is None:
            raise DataError(f"image '{image}' is not in the folder '{self.root}'. Choose another root")
        if name in self._images:
            raise DataError(f"image '{image}' is the second one named '{name}'. "
                            f'{"Add it once" if self.root else "Set root, so that names include folders"}')
        return name

    def _objects(self, image: Any, size: Tuple[int, int], masks: Union[Masks, Mapping[str, Masks]],
                 empty: List[str]) -> Iterator[Tuple[int, Piece, bool]]:
        """Class, pixels and crowd flag of each object."""
        ids = {name: number for number, name in self.classes.items()}
        if not isinstance(masks, Mapping) and len(ids) > 1 and not (self.label_divisor and _is_one(masks)):
            raise DataError(f"the masks of image '{image}' don't say which of the {len(ids)} classes they belong to. "
                            'Give a dict of masks by class name, or a label_divisor')
        by_class: Dict[str, Any] = dict(masks) if isinstance(masks, Mapping) else {next(iter(ids)): masks}
        for name, of_class in by_class.items():
            if name not in ids:
                raise DataError(f"image '{image}' has masks of the class '{name}', which is not one of "
                                f'{", ".join(ids)}. Add it to classes')
            if _is_one(of_class):
                where = _where(of_class, 'label map', image)
                for value, piece in pieces_of(_labels(of_class, where, size)):
                    category, crowd = self._class_of(value, ids[name])
                    if category in self.classes:
                        yield category, piece, crowd
                continue
            for mask in of_class:
                where = _where(mask, 'mask', image)
                pixels = mask if isinstance(mask, np.ndarray) else read_mask(mask)
                _check_size(pixels, where, size)
                single = piece_of(pixels)
                if single is None:
                    empty.append(where)
                else:
                    yield ids[name], single, False

    def _class_of(self, value: int, default: int) -> Tuple[int, bool]:
        if not self.label_divisor:
            return default, False
        return (value, True) if value < self.label_divisor else (value // self.label_divisor, False)

    def _segmentation(self, piece: Piece, size: Tuple[int, int], crowd: bool) -> Tuple[Any, Optional[float]]:
        """An object's segmentation, and the overlap with the mask if it is polygons."""
        if self.segmentation == 'polygon' and not crowd:
            corner = (piece.x, piece.y)
            polygons = mask_to_polygons(piece.pixels, corner)
            overlap = polygons_overlap(polygons, piece.pixels, corner)
            if polygons and overlap >= self.min_overlap:
                return polygons, overlap
        mask = np.zeros(size, np.uint8, order='F')
        height, width = piece.pixels.shape
        mask[piece.y:piece.y + height, piece.x:piece.x + width] = piece.pixels
        return dict(size=list(size), counts=coco_mask.encode(mask)['counts'].decode()), None


def _within(image: Path, root: StrPath) -> Optional[str]:
    """The path of an image relative to the root; None if it is not in it.

    The root, or a folder in it, is often a link to another disk, while the
    image is given by its real path.
    """
    for place in (os.path.abspath, os.path.realpath):
        with suppress(ValueError):
            return Path(place(image)).relative_to(place(root)).as_posix()
    return None


def _is_one(masks: Any) -> bool:
    """Whether this is a label map, and not a list of masks."""
    return isinstance(masks, (str, PathLike)) or isinstance(masks, np.ndarray) and masks.ndim == 2


def _where(mask: Mask, what: str, image: Any) -> str:
    return f"{what} of image '{image}'" if isinstance(mask, np.ndarray) else f"{what} '{mask}'"


def _labels(mask: Any, where: str, size: Tuple[int, int]) -> np.ndarray:
    labels = mask if isinstance(mask, np.ndarray) else read_label_map(mask)
    _check_size(labels, where, size)
    if labels.dtype.kind == 'f' and not np.array_equal(labels, np.floor(labels)):
        raise DataError(f'{where} holds fractions: values of a label map must be integers')
    if labels.dtype.kind in 'if' and labels.min() < 0:
        raise DataError(f'{where} holds values below 0, such as {labels.min():g}. Make the background 0')
    return labels


def _check_size(mask: np.ndarray, where: str, size: Tuple[int, int]) -> None:
    if mask.shape != size:
        raise DataError(f'{where} has the shape {" x ".join(map(str, mask.shape))}, but its image has the height and '
                        f'width {size[0]} x {size[1]}')
