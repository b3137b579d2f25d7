"""The handwritten digits that come with scikit-learn: real images without a download. Needs MMPretrain."""

from typing import Any, Dict, List, Sequence

import numpy as np
from mmpretrain.datasets import BaseDataset
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from mmfasternet.errors import ArgumentError
from mmfasternet.registry import DATASETS

_SPLITS = ('train', 'test')


@DATASETS.register_module()
class Digits(BaseDataset):
    """1,797 handwritten digits of 8 x 8 pixels, from the UCI repository's test set.

    A fixed fifth of each class is held out.

    Args:
        split: ``'train'`` (1,437 images) or ``'test'`` (360).
        pipeline: Transforms; images are already loaded, ``(8, 8, 3)`` from 0
            to 255. Defaults to ().
        test_mode: As MMEngine's. Defaults to False.

    Raises:
        ValueError: If there is no such split.
    """

    METAINFO = dict(classes=tuple('0123456789'))

    def __init__(self, split: str, pipeline: Sequence[Dict[str, Any]] = (), test_mode: bool = False) -> None:
        if split not in _SPLITS:
            raise ArgumentError(f'split must be one of {_SPLITS}, got {split!r}')
        self.split = split
        super().__init__(ann_file='', pipeline=pipeline, test_mode=test_mode)

    def load_data_list(self) -> List[Dict[str, Any]]:
        """The images and labels of the split."""
        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        indices = train_test_split(
            np.arange(len(images)), test_size=0.2, stratify=digits.target, random_state=0)[_SPLITS.index(self.split)]
        return [dict(img=np.repeat(images[i][..., None], 3, 2), gt_label=int(digits.target[i]), img_id=int(i))
                for i in indices]
