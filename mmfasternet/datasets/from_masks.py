"""Masks as people have them, made into a file of COCO's format.

Label maps hold an object in each value, as Cellpose, LIVECell's authors or
Cityscapes write them; other sets have a file for each object, as that of the
2018 Data Science Bowl.
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
    """Collects images with their masks, and writes them down in COCO's format.

    Boxes and areas are those of the masks. An object in several pieces gets
    several polygons, and objects may overlap. Polygons can't have holes, so
    that holes are filled; where that leaves an overlap with the mask below
    ``min_overlap``, the object is kept as a run-length encoding.

    Args:
        classes: Names of the classes, whose ids count from 1, or names by
            their ids. Defaults to one class, ``'object'``.
        label_divisor: For label maps whose values hold the class:
            ``value // label_divisor`` is its id, as in Cityscapes, where it
            is 1000. Values of other classes are omitted; one that is itself a
            class's id is a crowd of it (``iscrowd``). Defaults to None:
            values are objects of one class.
        root: Folder that the file names of images start from. Defaults to
            None: file names are bare.
        segmentation: ``'polygon'``, or ``'rle'`` for run-length encodings,
            which are exact; MMDetection ignores those where a pipeline says
            ``poly2mask=False``, as RTMDet-Ins' does. Defaults to
            ``'polygon'``.
        min_overlap: An object whose polygons overlap its mask by less
            (intersection over union) is kept as a run-length encoding. 1
            does so with each that has a hole. Defaults to 0.9.

    Attributes:
        empty_masks: Files of masks that hold no pixel; they give no object.
        overlaps: Of each object that was kept as polygons, with its mask
            (intersection over union, by pycocotools).

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
            masks: A label map, whose values but for 0 are the objects, or a
                list with a mask for each object, in which anything but 0
                belongs to it: files or arrays ``(H, W)``. For several classes
                a dict of these by the class's name.

        Raises:
            DataError: If a file is missing or broken, a mask is not of the
                image's size, or an image of this name is there already. Then
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
        """What the file holds: ``images``, ``annotations`` and ``categories``."""
        return dict(images=list(self._images.values()), annotations=self._annotations,
                    categories=[dict(id=number, name=name) for number, name in self.classes.items()])

    def summary(self) -> str:
        """How much is there, in a line, and how well the polygons overlap the masks."""
        total, polygons = len(self._annotations), len(self.overlaps)
        line = f'{len(self._images)} images, {total} objects'
        if polygons:
            line += (f'; {polygons} as polygons, whose IoU with the masks is {np.mean(self.overlaps):.4f} on average '
                     f'and {min(self.overlaps):.4f} at least')
        if total > polygons:
            line += f'; {total - polygons} as run-length encodings'
        return line

    def write(self, path: StrPath) -> Path:
        """Write the file, atomically; folders above it are made.

        Raises:
            DataError: If no image was added.
        """
        if not self._images:
            raise DataError(f"there is no image to write into '{path}'. Add some")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return write_atomically(Path(path), json.dumps(self.content).encode())

    def _file_name(self, image: Path) -> str:
        name = _within(image, self.root) if self.root else image.name
        if name is None:
            raise DataError(f"image '{image}' is not in the folder '{self.root}'. Name another root")
        if name in self._images:
            raise DataError(f"image '{image}' is the second one called '{name}'. "
                            f'{"Add it once" if self.root else "Name a root, so that folders belong to the name"}')
        return name

    def _objects(self, image: Any, size: Tuple[int, int], masks: Union[Masks, Mapping[str, Masks]],
                 empty: List[str]) -> Iterator[Tuple[int, Piece, bool]]:
        """Class, pixels and whether it is a crowd, of each object."""
        ids = {name: number for number, name in self.classes.items()}
        if not isinstance(masks, Mapping) and len(ids) > 1 and not (self.label_divisor and _is_one(masks)):
            raise DataError(f"the masks of image '{image}' belong to one of {len(ids)} classes, and it is not said to "
                            f'which. Give a dict of them by names, or a label_divisor')
        by_class: Dict[str, Any] = dict(masks) if isinstance(masks, Mapping) else {next(iter(ids)): masks}
        for name, of_class in by_class.items():
            if name not in ids:
                raise DataError(f"image '{image}' has masks of the class '{name}', which is none of "
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
        """An object's segmentation, and of polygons their overlap with the mask."""
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
    """The path of an image from the root; None if it is not in it.

    A folder in the root is often a link to another disk, and so may the root
    be, while the image is named by its real place.
    """
    for place in (os.path.abspath, os.path.realpath):
        with suppress(ValueError):
            return Path(place(image)).relative_to(place(root)).as_posix()
    return None


def _is_one(masks: Any) -> bool:
    """Whether this is a label map, not a list of masks."""
    return isinstance(masks, (str, PathLike)) or isinstance(masks, np.ndarray) and masks.ndim == 2


def _where(mask: Mask, what: str, image: Any) -> str:
    return f"{what} of image '{image}'" if isinstance(mask, np.ndarray) else f"{what} '{mask}'"


def _labels(mask: Any, where: str, size: Tuple[int, int]) -> np.ndarray:
    labels = mask if isinstance(mask, np.ndarray) else read_label_map(mask)
    _check_size(labels, where, size)
    if labels.dtype.kind == 'f' and not np.array_equal(labels, np.floor(labels)):
        raise DataError(f'{where} holds fractions: values of a label map are whole numbers')
    if labels.dtype.kind in 'if' and labels.min() < 0:
        raise DataError(f'{where} holds values below 0, such as {labels.min():g}. Make the background 0')
    return labels


def _check_size(mask: np.ndarray, where: str, size: Tuple[int, int]) -> None:
    if mask.shape != size:
        raise DataError(f'{where} has the shape {" x ".join(map(str, mask.shape))}, and its image has the height and '
                        f'width {size[0]} x {size[1]}')
