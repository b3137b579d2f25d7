"""Detectors and classifiers whose predictions are drawn and given as plain numbers."""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Protocol, Sequence, Union

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from torch import nn

from mmfasternet.checkpoints import read_ahead
from mmfasternet.compat import det_inferencer, forget_visualizer, image_classification_inferencer
from mmfasternet.datasets.dataset_checks import dataset_classes
from mmfasternet.engine.building import build_model
from mmfasternet.engine.checks import check_weights
from mmfasternet.engine.config import (
    class_of,
    innermost_dataset,
    is_classifier,
    model_of,
    scope_of,
    test_steps,
    with_text_types,
)
from mmfasternet.engine.config_parts import draw_readably, omitted
from mmfasternet.errors import DataError, UserError, kind_and_reason

Row = Dict[str, Any]
#: The path of an image, or its pixels, BGR ``(H, W, 3)``.
Image = Union[str, np.ndarray]


class Predictor(Protocol):
    """Interface of both kinds.

    Attributes:
        ids: For a detector, the ids of its classes in order, from 1 unless
            set; empty for a classifier.
        classes: Names of the classes.
    """
    ids: Sequence[int]
    classes: Sequence[str]

    def __call__(self, images: Sequence[Image]) -> List[Any]:
        """Predict for a batch; returns a data sample for each image.

        Raises:
            DataError: If the pipeline fails on an image file.
        """

    def draw(self, image: np.ndarray, sample: Any, truth: Optional[Any] = None, enlarged: bool = False) -> np.ndarray:
        """An image with its predictions drawn.

        Args:
            image: BGR, ``(H, W, 3)``.
            sample: The predictions.
            truth: The annotated objects of a detector's image, drawn to the
                left. Defaults to None: the predictions alone.
            enlarged: Whether a detector's small image is enlarged. Defaults
                to False.
        """

    def rows(self, sample: Any) -> List[Row]:
        """The predictions for an image as plain numbers and strings."""


def make_predictor(cfg: Config, checkpoint: str, device: str, score_thr: float) -> Predictor:
    """Build a model with its weights for prediction.

    Args:
        cfg: Config of a detector or a classifier.
        checkpoint: Path or URL of its weights.
        device: Such as ``'cpu'``.
        score_thr: Detections below this score are omitted.

    Raises:
        UserError: If the checkpoint can't be used.
    """
    cfg = with_text_types(cfg)  # a copy, which the inferencers change
    cfg.model = model_of(cfg)  # MMDetection's uses only the model
    test_steps(cfg)  # raises if there are none
    cfg.test_dataloader.dataset = innermost_dataset(cfg, first=True)  # whose pipeline the inferencers take
    if is_classifier(cfg):
        return ClassifierPredictor(cfg, checkpoint, device)
    if 'vis_backends' in (cfg.get('visualizer') or {}):
        cfg.visualizer.vis_backends = []  # they write into the work folder of a run, which a prediction has not
    if 'PictureVisualizer' not in omitted(cfg):
        draw_readably(cfg)
    return DetectorPredictor(cfg, checkpoint, device, score_thr)


class DetectorPredictor:
    """A detector: boxes, and masks if it has them. See :func:`make_predictor`."""

    def __init__(self, cfg: Config, checkpoint: str, device: str, score_thr: float) -> None:
        has_classes = False

        def check(model: nn.Module, content: Dict[str, Any]) -> None:
            nonlocal has_classes
            check_weights(model, content, checkpoint)
            has_classes = 'dataset_meta' in content.get('meta', {})

        self._inferencer = det_inferencer(cfg, checkpoint, device, check)
        # A later training of this process would get this visualizer, which writes nothing.
        forget_visualizer(self._inferencer.visualizer)
        self._score_thr = score_thr
        self.classes: Sequence[str] = self._inferencer.model.dataset_meta['classes']
        if not has_classes:  # MMDetection then takes COCO's names
            with DefaultScope.overwrite_default_scope(scope_of(cfg)):
                self.classes = dataset_classes(cfg.test_dataloader.dataset) or self.classes
            self._inferencer.visualizer.dataset_meta = dict(
                self._inferencer.model.dataset_meta, classes=self.classes)
        self.ids: Sequence[int] = range(1, len(self.classes) + 1)
        self._drawn: np.ndarray
        self._inferencer.visualizer.add_image = self._keep  # its get_image() resamples the drawing

    def __call__(self, images: Sequence[Image]) -> List[Any]:
        """See :class:`Predictor`."""
        with _named(images):
            (_, data), = self._inferencer.preprocess(images, batch_size=len(images))
        return self._inferencer.forward(data)

    def draw(self, image: np.ndarray, sample: Any, truth: Optional[Any] = None, enlarged: bool = False) -> np.ndarray:
        """See :class:`Predictor`."""
        if truth is not None:
            sample.gt_instances = truth
        self._inferencer.visualizer.enlarges = enlarged
        self._inferencer.visualizer.add_datasample(
            '', image[..., ::-1], sample, draw_gt=truth is not None, pred_score_thr=self._score_thr)
        return self._drawn[..., ::-1]

    def _keep(self, name: str, image: np.ndarray, step: int = 0) -> None:
        self._drawn = image

    def rows(self, sample: Any) -> List[Row]:
        """A dict for each object, with ``bbox`` as x, y, width, height in pixels and ``segmentation`` as RLE."""
        result, rows = self._inferencer.pred2dict(sample), []
        masks = result.get('masks') or [None] * len(result['labels'])
        for label, score, (x0, y0, x1, y1), mask in zip(result['labels'], result['scores'], result['bboxes'], masks):
            if score < self._score_thr:
                continue
            row: Row = dict(category_id=self.ids[label], category_name=self.classes[label],
                            bbox=[x0, y0, x1 - x0, y1 - y0], score=score)
            rows.append(row if mask is None else dict(row, segmentation=mask))
        return rows


class ClassifierPredictor:
    """A classifier: the five most likely classes. See :func:`make_predictor`."""

    ids: Sequence[int] = ()

    def __init__(self, cfg: Config, checkpoint: str, device: str) -> None:
        from mmpretrain.visualization import UniversalVisualizer
        meta = read_ahead(checkpoint).get('meta', {}).get('dataset_meta')
        model = build_model(cfg, checkpoint, torch.device(device))
        self._inferencer = image_classification_inferencer(cfg, model, meta or _dataset_meta(cfg))
        self.classes: Sequence[str] = self._inferencer.classes or ()
        self._visualizer = UniversalVisualizer()

    def __call__(self, images: Sequence[Image]) -> List[Any]:
        """See :class:`Predictor`."""
        with _named(images):
            data, = self._inferencer.preprocess(images, batch_size=len(images))
        return self._inferencer.forward(data)

    def draw(self, image: np.ndarray, sample: Any, truth: Optional[Any] = None, enlarged: bool = False) -> np.ndarray:
        """See :class:`Predictor`."""
        drawn = self._visualizer.visualize_cls(image[..., ::-1], sample, classes=self.classes or None, draw_gt=False)
        return drawn[..., ::-1]

    def rows(self, sample: Any) -> List[Row]:
        """One dict with ``classes`` and ``scores``."""
        scores, order = sample.pred_score.detach().cpu().sort(descending=True)
        labels = order[:5].tolist()
        names = [self.classes[label] if self.classes else str(label) for label in labels]
        return [dict(classes=names, scores=scores[:5].tolist())]


@contextmanager
def _named(images: Sequence[Image]) -> Iterator[None]:
    """Within it, an error of the pipeline names the images of the batch, if they are files.

    Raises:
        DataError: Instead of it.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        names = [f"'{image}'" for image in images if isinstance(image, str)]
        if not names:
            raise
        raise DataError(f'image {" or ".join(names)}: the test pipeline fails on it '
                        f'({kind_and_reason(error)})') from error


def _dataset_meta(cfg: Config) -> Dict[str, Any]:
    """The class names in the metainfo of the test dataset's class, if there are any."""
    return getattr(class_of(innermost_dataset(cfg), DATASETS, scope_of(cfg)), 'METAINFO', {})
