"""Image loading that reports a broken file instead of returning half a picture."""

import os
from typing import Any, Dict, Optional

import numpy as np
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from PIL import Image

from mmfasternet.errors import DataError
from mmfasternet.registry import TRANSFORMS

_ENDINGS = {b'\xff\xd8': b'\xff\xd9', b'\x89PNG': b'IEND\xaeB`\x82'}  # how a complete JPEG or PNG starts and ends


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """mmcv's ``LoadImageFromFile``, with errors for missing, broken and truncated files.

    OpenCV silently fills the missing rest of a truncated JPEG with grey, and
    training would use it. Whether a file is complete is checked by its last
    bytes, for local files only.

    Args:
        See :class:`mmcv.transforms.LoadImageFromFile`.

    Raises:
        DataError: The message names the file and what is wrong with it.
    """

    def transform(self, results: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """Load ``results['img_path']``; adds ``img``, ``img_shape`` and ``ori_shape``."""
        path = results['img_path']
        try:
            _check_complete(path)
            return super().transform(results)
        except MemoryError:
            raise
        except FileNotFoundError:
            problem, remedy = 'does not exist', 'Check the data root and data_prefix'
        except Exception as error:  # the decoders raise whatever they like
            if isinstance(error, OSError) and error.errno is not None:  # what the system says is not of its content
                raise DataError(f"image '{path}' can't be read: {error.strerror}") from None
            problem = f"is broken ({(str(error).strip() or type(error).__name__).splitlines()[-1]})"
            remedy = 'Download it again'
        if self.ignore_empty:
            return None
        raise DataError(f"image '{path}' {problem}. {remedy}, or remove it, from an annotation file too")


def _check_complete(path: str) -> None:
    """Raise an error if a local JPEG or PNG lacks its end marker and can't be decoded completely."""
    if not os.path.isfile(path):
        return  # missing, or on a remote store: loading tells
    with open(path, 'rb') as file:
        start = file.read(4)
        file.seek(max(0, os.path.getsize(path) - 8))
        end = file.read()
    if not start:
        raise OSError('the file is empty')
    for beginning, ending in _ENDINGS.items():
        if start.startswith(beginning) and not end.endswith(ending):
            with Image.open(path) as image:  # cut short, or complete with something appended: only decoding tells
                np.asarray(image)
