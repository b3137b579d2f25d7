"""Conversion of the 2018 Data Science Bowl's nuclei, as downloaded, to COCO format.

Its ``stage1_train``, also known as BBBC038, holds one folder per image:
``NAME/images/NAME.png`` and ``NAME/masks/*.png``, one file per nucleus.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Union

import cv2
from rich.progress import track

from mmfasternet.datasets.from_masks import MasksToCoco
from mmfasternet.datasets.image_files import IMAGE_SUFFIXES
from mmfasternet.datasets.image_loading import LoadImageFromFile
from mmfasternet.datasets.mask_files import image_size
from mmfasternet.errors import ArgumentError, DataError
from mmfasternet.files import atomic_folder, check_folder

CLASSES = ('nucleus', )


@dataclass(frozen=True)
class NucleiReport:
    """Result of the conversion.

    Attributes:
        splits: Contents of ``train.json`` and ``val.json``, by ``'train'`` and
            ``'val'``.
        problems: A line for each folder and each mask that was skipped because
            it can't be used.
        too_large: How many folders were skipped because of ``max_size``.
    """
    splits: Dict[str, MasksToCoco]
    problems: List[str]
    too_large: int


def make_nuclei_coco(source: Union[str, Path],
                     root: Union[str, Path],
                     val_share: float = 0.18,
                     max_size: Optional[int] = None,
                     segmentation: str = 'polygon') -> NucleiReport:
    """Write ``images/*.png``, without an alpha channel, ``train.json`` and ``val.json``.

    Whether an image is in the validation split depends on its folder's name
    alone: with more images in ``source``, each stays where it was.

    Args:
        source: The folder that holds a folder for each image.
        root: Folder to make.
        val_share: Share of the images to validate on. Defaults to 0.18.
        max_size: Images with a longer side, in pixels, are skipped. Defaults
            to None: all are kept.
        segmentation: ``'polygon'`` or ``'rle'``, as of
            :class:`~mmfasternet.datasets.from_masks.MasksToCoco`.

    Returns:
        The result. A folder that can't be used is skipped and does not affect
        the others.

    Raises:
        DataError: If ``root`` exists already, or there is nothing to train on
            or to validate on.
        UserError: If ``root`` can't be written.
        ArgumentError: If an argument is out of its range; the message names it.
    """
    if not 0 < val_share < 1:
        raise ArgumentError(f'val_share must be between 0 and 1, got {val_share}')
    if max_size is not None and max_size < 1:
        raise ArgumentError(f'max_size must be at least 1, got {max_size}')
    check_folder(root)
    folders = _folders(Path(source))
    splits = {split: MasksToCoco(CLASSES, segmentation=segmentation) for split in ('train', 'val')}
    with atomic_folder(root) as target:
        problems: List[str] = []
        too_large = 0
        (target / 'images').mkdir()
        for folder in track(folders, 'Images'):
            try:
                image, masks = _image_of(folder), _files(folder / 'masks')
                if not masks:
                    raise DataError(f"folder '{folder}' has no mask in masks/")
                if max_size is not None and max(image_size(image)) > max_size:
                    too_large += 1
                    continue
                _add(splits['val' if _draw(folder.name) < val_share else 'train'], folder, image, masks, target)
            except DataError as error:
                problems.append(f'{folder.name} is skipped: {error}')
        for split, coco in splits.items():
            problems += [f'{mask} is skipped: it is empty' for mask in coco.empty_masks]
            if not coco.content['images']:
                first = f". The first of {len(problems)} that can't be used: {problems[0]}" if problems else ''
                limit = f' and max_size={max_size}, which skips {too_large}' if too_large else ''
                raise DataError(f"of the {len(folders)} folders in '{source}', none is left for {split}.json with "
                                f'val_share={val_share}{limit}{first}')
            coco.write(target / f'{split}.json')
    return NucleiReport(splits, problems, too_large)


def _folders(source: Path) -> List[Path]:
    if not source.is_dir():
        raise DataError(f"folder '{source}' does not exist. Give the unpacked stage1_train")
    folders = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith(('.', '__MACOSX')))
    if not any((folder / 'images').is_dir() for folder in folders):
        raise DataError(f"'{source}' has no subfolder with images/ and masks/. Give the unpacked stage1_train")
    return folders


def _files(folder: Path) -> List[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.'))


def _image_of(folder: Path) -> Path:
    images = _files(folder / 'images')
    if len(images) != 1:
        raise DataError(f"folder '{folder}' has {len(images) or 'no'} image{'s' * (len(images) > 1)} in images/, "
                        f'not one')
    return images[0]


def _draw(name: str) -> float:
    """A number between 0 and 1 that depends only on the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], 'big') / 2**64


def _add(coco: MasksToCoco, folder: Path, image: Path, masks: List[Path], target: Path) -> None:
    pixels = LoadImageFromFile().transform({'img_path': str(image)})['img']  # type: ignore[index]
    written = target / 'images' / f'{folder.name}.png'
    written.write_bytes(cv2.imencode('.png', pixels)[1].tobytes())  # cv2.imwrite() hides a full disk
    try:
        coco.add(written, masks)
    except DataError:
        written.unlink()
        raise
