"""Image files in a folder."""

from pathlib import Path
from typing import List, Optional

from mmfasternet.datasets.image_loading import LoadImageFromFile
from mmfasternet.errors import DataError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm')


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
    found = [root] if root.is_file() else root.rglob('*') if tree else root.iterdir()
    images = sorted(p for p in found if root.is_file() or p.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise DataError(f"folder '{path}' holds no image ({', '.join(IMAGE_SUFFIXES)})")
    if at_most is not None and len(images) > at_most:
        images = [images[index * len(images) // at_most] for index in range(at_most)] if tree else images[:at_most]
    load = LoadImageFromFile()
    for image in images:
        load.transform({'img_path': str(image)})
    return [str(image) for image in images]
