"""Finding of image files in folders."""

import logging
import os
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence

from mmengine.logging import print_log
from PIL import Image, UnidentifiedImageError

from mmfasternet.config_tree import walk
from mmfasternet.datasets.image_loading import LoadImageFromFile
from mmfasternet.datasets.video_files import VIDEO_SUFFIXES
from mmfasternet.errors import DataError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm')
_MAY_BE_ANIMATED = ('.png', '.tif', '.tiff', '.webp')


def find_images(path: str, at_most: Optional[int] = None, tree: bool = False) -> List[str]:
    """The image files at ``path``: the file itself, or those in the folder, sorted by name; each is decoded once.

    Args:
        path: Image or folder.
        at_most: Maximum number: the first ones of a folder, or with ``tree``
            images spread over it. Defaults to None, all.
        tree: Include subfolders. Defaults to False.

    Raises:
        DataError: If there are none, or one is broken.
    """
    root = Path(path)
    if not root.exists():
        raise DataError(f"image or folder '{path}' does not exist")
    found = sorted([root] if root.is_file() else root.rglob('*') if tree else root.iterdir())
    images = [p for p in found if root.is_file() or p.suffix.lower() in IMAGE_SUFFIXES]
    videos = [p.name for p in found if p.suffix.lower() in VIDEO_SUFFIXES and not root.is_file()]
    if not images and videos:
        raise DataError(f"folder '{path}' holds no image, but videos ({len(videos)}), such as '{videos[0]}'. Only "
                        'prediction takes videos: give one of them')
    if not images:
        raise DataError(f"folder '{path}' holds no image ({', '.join(IMAGE_SUFFIXES)})")
    if videos:
        print_log(f"only the images in folder '{path}' are used, not the {len(videos)} videos, such as '{videos[0]}'",
                  'current', logging.WARNING)
    if at_most is not None and len(images) > at_most:
        images = [images[index * len(images) // at_most] for index in range(at_most)] if tree else images[:at_most]
    load = LoadImageFromFile()
    for image in images:
        load.transform({'img_path': str(image)})
    _tell_of_animated(images)
    return [str(image) for image in images]


def _tell_of_animated(images: Sequence[Path]) -> None:
    animated = [image for image in images if image.suffix.lower() in _MAY_BE_ANIMATED and _frames(image) > 1]
    if animated:
        print_log(f"image '{animated[0]}' holds {_frames(animated[0])} images, of which only the first is used "
                  f'({len(animated)} such files in all)', 'current', logging.WARNING)


def _frames(image: Path) -> int:
    try:
        with Image.open(image) as opened:
            return getattr(opened, 'n_frames', 1)
    except (OSError, UnidentifiedImageError):  # a format that OpenCV reads and Pillow does not
        return 1


def missing_images(folder: str, names: Iterable[str]) -> List[str]:
    """The missing files, found by listing each folder: checking each file takes minutes on a remote disk.

    Args:
        folder: Folder that the paths are relative to.
        names: The paths, which may be absolute.
    """
    by_folder: Dict[str, List[str]] = defaultdict(list)
    for name in names:
        if '://' not in name:
            by_folder[os.path.dirname(os.path.join(folder, name))].append(name)
    return [name for place, inside in by_folder.items() for name in _missing(folder, place, inside)]


def _missing(folder: str, place: str, names: List[str]) -> Iterator[str]:
    try:
        there = set(os.listdir(place or '.'))
    except (OSError, ValueError):
        there = set()
    # A file system may ignore case, or normalise names.
    return (name for name in names
            if os.path.basename(name) not in there and not os.path.lexists(os.path.join(folder, name)))


def needs_files(dataset: Dict[str, Any]) -> bool:
    """Whether a dataset's pipeline loads its images from local files, all of which must exist.

    Args:
        dataset: Its config.
    """
    loaders = [node for _, node in walk(dataset.get('pipeline') or [])
               if str(node.get('type')).rpartition('.')[2] == 'LoadImageFromFile']
    return bool(loaders) and not any(node.get('backend_args') or node.get('ignore_empty') for node in loaders)
