"""The nuclei of the 2018 Data Science Bowl, from the public download into COCO's format.

Its ``stage1_train``, which is also BBBC038, holds a folder for each image:
``NAME/images/NAME.png`` and ``NAME/masks/*.png``, a file for each nucleus.
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
    """What became of the folders.

    Attributes:
        splits: What ``train.json`` and ``val.json`` hold, by ``'train'`` and
            ``'val'``.
        problems: A line for each folder and each mask that was left out since
            it can't be used.
        too_large: How many folders ``max_size`` left out.
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
        max_size: Images with a longer side, in pixels, are left out. Defaults
            to None: all are kept.
        segmentation: ``'polygon'`` or ``'rle'``, as of
            :class:`~mmfasternet.datasets.from_masks.MasksToCoco`.

    Returns:
        What became of the folders. One that can't be used is left out and
        costs none of the others.

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
                problems.append(f'{folder.name} is left out: {error}')
        for split, coco in splits.items():
            problems += [f'{mask} is left out: it is empty' for mask in coco.empty_masks]
            if not coco.content['images']:
                first = f'. The first of {len(problems)} that can not be used: {problems[0]}' if problems else ''
                limit = f' and max_size={max_size}, which leaves out {too_large}' if too_large else ''
                raise DataError(f"of the {len(folders)} folders in '{source}', none is left for {split}.json with "
                                f'val_share={val_share}{limit}{first}')
            coco.write(target / f'{split}.json')
    return NucleiReport(splits, problems, too_large)


def _folders(source: Path) -> List[Path]:
    if not source.is_dir():
        raise DataError(f"folder '{source}' does not exist. Name the unpacked stage1_train")
    folders = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith(('.', '__MACOSX')))
    if not any((folder / 'images').is_dir() for folder in folders):
        raise DataError(f"'{source}' holds no folder with images/ and masks/ in it. Name the unpacked stage1_train")
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
    """A number between 0 and 1 that depends on the name alone."""
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
