"""Latency of a detector's parts: which part runs at each moment of a call."""

import time
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, Tuple

import torch
from mmdet.models.detectors import TwoStageDetector
from torch import nn

from mmfasternet.deploy.dense import each_module
from mmfasternet.deploy.export.exported_detector import ExportedDetector
from mmfasternet.deploy.gpu.graphed_detector import GraphedBoxes, GraphedMasks

#: In the order of the computation.
PARTS = ('preprocess', 'backbone', 'neck', 'RPN', 'dense head', 'RoI box', 'RoI mask', 'post-process')
_REST = 'post-process'


class DetectorParts:
    """Times the parts of a detector in one call; their sum is the whole call.

    A part ends where another one begins within it or after it: the box head's
    time excludes its non-maximum suppression. Post-processing is non-maximum
    suppression, pasting of masks, and everything else. On a GPU the parts are
    delimited by stream events, which block nothing.

    If backbone, neck and dense head are one exported file, their time counts
    as the backbone's.

    Args:
        detector: The detector.
        device: The device it runs on.
    """

    def __init__(self, detector: nn.Module, device: torch.device) -> None:
        self.detector = detector
        self.device = device
        self._marks: List[Tuple[str, Any]] = []  # a part, and when it started
        self._stack: List[str] = []

    def __call__(self, function: Callable[[], Any]) -> Dict[str, float]:
        """Milliseconds of each part in a call of ``function``, which runs the detector."""
        self._marks, self._stack = [], [_REST]
        with ExitStack() as patches:
            for owner, name, part in _boundaries(self.detector):
                patches.enter_context(self._timed(owner, name, part))
            self._synchronize()
            self._mark(_REST)
            function()
            self._mark(_REST)
            self._synchronize()
        times: Dict[str, float] = {}
        for (part, start), (_, end) in zip(self._marks, self._marks[1:]):
            times[part] = times.get(part, 0.) + self._between(start, end)
        return {part: times[part] for part in PARTS if part in times}

    @contextmanager
    def _timed(self, owner: Any, name: str, part: str) -> Iterator[None]:
        """Within it, a method or a child module is timed as a part."""
        own = getattr(owner, name)
        is_child = isinstance(own, nn.Module)
        was_set = is_child or name in owner.__dict__
        setattr(owner, name, _TimedModule(own, self, part) if is_child else self.within(part, own))
        try:
            yield
        finally:
            if was_set:
                setattr(owner, name, own)
            else:
                delattr(owner, name)  # uncovers the method of the class

    def within(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed as a part."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._stack.append(part)
            self._mark(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._stack.pop()
                self._mark(self._stack[-1])

        return timed

    def _mark(self, part: str) -> None:
        if self.device.type == 'cuda':
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((part, event))
        else:
            self._marks.append((part, time.perf_counter()))

    def _between(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) if self.device.type == 'cuda' else (end - start) * 1e3

    def _synchronize(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)


class _TimedModule(nn.Module):
    """Replaces a module, with all its attributes."""

    def __init__(self, module: nn.Module, parts: DetectorParts, part: str) -> None:
        super().__init__()
        self.module = module
        self._call = parts.within(part, module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__('module'), name)


def _boundaries(detector: nn.Module) -> List[Tuple[Any, str, str]]:
    """Modules, with their children or methods and the part each belongs to."""
    if isinstance(detector, ExportedDetector):
        return _boundaries(detector.detector)
    found = [(detector, 'data_preprocessor', 'preprocess'), (detector, 'backbone', 'backbone')]
    if getattr(detector, 'neck', None) is not None:
        found.append((detector, 'neck', 'neck'))
    if not isinstance(detector, TwoStageDetector):
        return [*found, (detector.bbox_head, 'predict', 'dense head'), (detector.bbox_head, 'predict_by_feat', _REST)]
    if detector.with_rpn:
        found.append((detector.rpn_head, 'predict', 'RPN'))
    for kind in ('bbox', 'mask'):
        if getattr(detector.roi_head, f'with_{kind}', False):
            predict = getattr(detector.roi_head, f'predict_{kind}')
            found.append((detector.roi_head, f'predict_{kind}', 'RoI box' if kind == 'bbox' else 'RoI mask'))
            if isinstance(predict, (GraphedBoxes, GraphedMasks)):
                found.append((predict, 'select' if kind == 'bbox' else 'paste', _REST))
            for head in each_module(getattr(detector.roi_head, f'{kind}_head')):
                if hasattr(head, 'predict_by_feat'):
                    found.append((head, 'predict_by_feat', _REST))
    return found
