"""Image files in a folder."""

import logging
from pathlib import Path
from typing import List, Optional, Sequence

from mmengine.logging import print_log
from PIL import Image, UnidentifiedImageError

from mmfasternet.datasets.image_loading import LoadImageFromFile
from mmfasternet.datasets.video_files import VIDEO_SUFFIXES
from mmfasternet.errors import DataError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm')
_MAY_BE_ANIMATED = ('.png', '.tif', '.tiff', '.webp')


def find_images(path: str, at_most: Optional[int] = None, tree: bool = False) -> List[str]:
    """The image files at ``path``: itself, or those in the folder, sorted by name; all of them are decoded once.

    Args:
        path: Image or folder.
        at_most: How many of a folder's: the first ones, or of a tree as many
            spread over it. Defaults to None, all.
        tree: Look into folders of the folder as well. Defaults to False.

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
                        f'prediction takes videos: name one of them')
    if not images:
        raise DataError(f"folder '{path}' holds no image ({', '.join(IMAGE_SUFFIXES)})")
    if videos:
        print_log(f"of folder '{path}', only the images are taken, not the {len(videos)} videos, such as '{videos[0]}'",
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
        print_log(f"image '{animated[0]}' holds {_frames(animated[0])} images, and the first is taken "
                  f'({len(animated)} such files in all)', 'current', logging.WARNING)


def _frames(image: Path) -> int:
    try:
        with Image.open(image) as opened:
            return getattr(opened, 'n_frames', 1)
    except (OSError, UnidentifiedImageError):  # a format that OpenCV reads and Pillow does not
        return 1
