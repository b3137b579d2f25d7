"""COCO evaluation with a maximum number of detections other than 100."""

from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from mmdet.datasets.api_wrappers import COCOeval, COCOevalMP

#: How many detections of a class on an image COCO's AP counts, the most confident ones.
COCO_MAX_DETS = 100


class _AtMaxDets:
    """Mixin for pycocotools' ``COCOeval``: AP with ``max_dets`` detections of a class per image.

    pycocotools' ``summarize()`` reports AP at 100 detections, whatever
    ``maxDets`` is, and AP50, AP75 and AP by area at the last of three
    ``maxDets``.

    AR stays at the numbers in ``params.maxDets``, which MMDetection names it
    by; the evaluation of proposals is unchanged.
    """
    params: Any
    eval: Dict[str, Any]
    stats: np.ndarray

    def __init__(self, max_dets: int, *args: Any) -> None:
        super().__init__(*args)
        self._max_dets = max_dets
        self._named: List[int] = []

    def evaluate(self) -> None:
        """Evaluate each image, with as many detections as the largest number requires."""
        self._named = sorted(self.params.maxDets)
        if self.params.useCats:
            self.params.maxDets = sorted({*self._named, self._max_dets})
        super().evaluate()  # type: ignore[misc]

    def summarize(self) -> None:
        """Set ``stats`` as pycocotools does, and print AP and AR at ``max_dets``."""
        if not self.params.useCats:
            super().summarize()  # type: ignore[misc]
            return
        numbers = self.params.maxDets
        at, named = numbers.index(self._max_dets), [numbers.index(number) for number in self._named]
        areas = range(len(self.params.areaRngLbl))
        self.stats = np.array([
            *(self._precision(at, iou=iou) for iou in (None, .5, .75)),
            *(self._precision(at, area) for area in areas[1:]),
            *(self._recall(index) for index in named), *(self._recall(named[-1], area) for area in areas[1:])])
        for line in (*(self._line('Precision', '(AP)', self.stats[index], iou=iou)
                       for index, iou in enumerate((None, .5, .75))),
                     *(self._line('Precision', '(AP)', self.stats[2 + area], area) for area in areas[1:]),
                     *(self._line('Recall', '(AR)', self._recall(at, area), area) for area in areas)):
            print(line)
        # MMDetection's table of classes takes the last.
        self.eval['precision'] = self.eval['precision'][..., [at]]

    def _precision(self, at: int, area: int = 0, iou: Optional[float] = None) -> float:
        values = self.eval['precision'][:, :, :, area, at]
        return _mean(values if iou is None else values[np.isclose(self.params.iouThrs, iou)])

    def _recall(self, at: int, area: int = 0) -> float:
        return _mean(self.eval['recall'][:, :, area, at])

    def _line(self, what: str, short: str, value: float, area: int = 0, iou: Optional[float] = None) -> str:
        thresholds: Sequence[float] = self.params.iouThrs
        ious = f'{thresholds[0]:.2f}:{thresholds[-1]:.2f}' if iou is None else f'{iou:.2f}'
        return (f' Average {what:<10} {short} @[ IoU={ious:<9} | area={self.params.areaRngLbl[area]:>6s} | '
                f'maxDets={self._max_dets:>3d} ] = {value:.3f}')


def _mean(values: np.ndarray) -> float:
    """Mean of the values that exist: pycocotools marks missing ones with -1, and gives -1 if there are none."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.


class EvaluatorAtMaxDets(_AtMaxDets, COCOeval):
    """pycocotools' ``COCOeval`` at ``max_dets``, its first argument."""


class ParallelEvaluatorAtMaxDets(_AtMaxDets, COCOevalMP):
    """MMDetection's ``COCOevalMP``, of several processes, at ``max_dets``, its first argument."""
