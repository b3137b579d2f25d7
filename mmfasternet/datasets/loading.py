"""Image loading that names a broken file instead of passing on half a picture."""

import io
from typing import Any, Dict, Optional

import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from PIL import Image

from mmfasternet.errors import DataError
from mmfasternet.registry import TRANSFORMS

_ENDINGS = {b'\xff\xd8': b'\xff\xd9', b'\x89PNG': b'IEND\xaeB`\x82'}  # how a whole JPEG or PNG starts and ends


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that refuses missing, broken and truncated files.

    OpenCV fills the missing rest of a truncated JPEG with grey and says
    nothing; a training run would learn from it.

    Args:
        See :class:`mmcv.transforms.LoadImageFromFile`.

    Raises:
        DataError: Names the file and what is wrong with it.
    """

    def transform(self, results: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """Load ``results['img_path']``; adds ``img``, ``img_shape`` and ``ori_shape``."""
        path = results['img_path']
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except OSError as error:
            if self.ignore_empty:
                return None
            raise DataError(f"image '{path}' can't be read: {error.strerror or error}. Check the data root, "
                            f'or remove the image from the annotation file') from None
        problem = _problem(content)
        if problem is None:
            try:
                loaded = super().transform(results)
            except Exception as error:  # the decoders raise whatever they like
                problem = str(error).strip().splitlines()[-1]
            else:
                return loaded
        if self.ignore_empty:
            return None
        raise DataError(f"image '{path}' is broken ({problem}). Fetch it again, "
                        f'or remove it from the annotation file')


def _problem(content: bytes) -> Optional[str]:
    """What is wrong with an encoded image, None where nothing is."""
    if not content:
        return 'the file is empty'
    for start, end in _ENDINGS.items():
        if content.startswith(start) and not content.endswith(end):
            break  # cut short, or whole with something appended: only decoding tells
    else:
        return None
    try:
        with Image.open(io.BytesIO(content)) as image:
            np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        return str(error)
    return None
