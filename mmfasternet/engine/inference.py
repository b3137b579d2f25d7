"""Predictions for images and videos: drawn, and as a JSON file in COCO's result format."""

import json
import logging
import os
from itertools import islice
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, TypeVar

import mmcv
from mmengine.config import Config
from mmengine.logging import print_log
from rich.progress import track

from mmfasternet.checkpoints import safe_loading
from mmfasternet.datasets.annotation_ids import category_ids, image_ids, read_ids
from mmfasternet.datasets.image_files import IMAGE_SUFFIXES
from mmfasternet.datasets.truth import Truth
from mmfasternet.datasets.video_files import SUFFIX, VideoFile, write_video
from mmfasternet.engine.device import find_device
from mmfasternet.engine.predictors import Predictor, make_predictor
from mmfasternet.errors import ArgumentError, DataError, UserError
from mmfasternet.files import check_folder, write_atomically

_DRAWN = 'vis'  # the folder of what is drawn
_HOPELESS = 10  # so many failing images, and none before, are no fault of the images
_Job = Tuple[str, str, Path, Any]  # of an image: its file, name, drawn file and id
_T = TypeVar('_T')


def predict(cfg: Config,
            checkpoint: str,
            images: List[str],
            out_dir: str,
            device: Optional[str] = None,
            score_thr: float = 0.3,
            ann_file: Optional[str] = None,
            batch_size: int = 1) -> List[Dict[str, Any]]:
    """Predict on images; draws and writes the predictions.

    Args:
        cfg: Config of a detector or a classifier.
        checkpoint: Path or URL of its weights.
        images: Image files.
        out_dir: Folder that gets ``predictions.json``, and the drawn images in
            ``vis``.
        device: Such as ``'cpu'`` or ``'cuda:0'``. Defaults to None: the first
            GPU, else the CPU.
        score_thr: Detections below this score are omitted. Defaults to 0.3.
        ann_file: COCO annotation file with the ids of images (matched by file
            name) and categories; if it has annotations, they are drawn next to
            the predictions. Defaults to None: images and classes are numbered
            from 1.
        batch_size: Images at a time. Defaults to 1.

    Returns:
        The content of ``predictions.json``. For a detector, a dict for each
        object in COCO's result format (``image_id``, ``category_id``, ``bbox``
        as x, y, width, height in pixels, ``score``, ``segmentation`` as RLE),
        with ``file_name`` and ``category_name``. For a classifier, a dict for
        each image with ``file_name`` and the five most likely ``classes`` and
        ``scores``. ``file_name`` is the bare file name, with folders if two
        images have the same one.

    Raises:
        ArgumentError: If ``batch_size`` is not positive.
        UserError: If the checkpoint, the device or ``ann_file`` can't be
            used, ``out_dir`` can't be written, or a drawn image would
            overwrite an image.
        DataError: If the test pipeline fails on an image: after the others,
            whose predictions are written; at once, if it fails on the first
            ten.
    """
    names = _names(images)
    drawn = [_drawn_file(out_dir, name) for name in names]
    _check(images, drawn, batch_size)
    check_folder(out_dir)
    with safe_loading():
        content = read_ids(ann_file) if ann_file else None
        predictor = make_predictor(cfg, checkpoint, str(find_device(device)), score_thr)
        ids: Sequence[int] = range(1, len(images) + 1)
        if content and predictor.ids:
            ids, predictor.ids = image_ids(content, images), category_ids(content, predictor.classes)
        truth = Truth(content, predictor.classes, ann_file) if ann_file and content and predictor.ids else None
        rows: List[Dict[str, Any]] = []
        predicting = _Skipping(predictor, min(len(images), _HOPELESS))
        batches = list(_batches(zip(images, names, drawn, ids), batch_size))
        for batch in track(batches, 'Inference'):
            for (image, name, file, number), sample in predicting(batch):
                where = dict(image_id=number, file_name=name) if predictor.ids else dict(file_name=name)
                rows += [dict(where, **row) for row in predictor.rows(sample)]
                pixels = mmcv.imread(image)
                there = truth.on(number, pixels.shape[:2]) if truth else None
                mmcv.imwrite(predictor.draw(pixels, sample, there, enlarged=True), str(file))
    _write(out_dir, rows)
    if predicting.errors:
        raise DataError(f'{predicting.errors[0]}. {len(predicting.errors)} of {len(images)} images were skipped; the '
                        f"predictions for the others are in '{out_dir}'")
    return rows


def predict_video(cfg: Config,
                  checkpoint: str,
                  video: str,
                  out_dir: str,
                  device: Optional[str] = None,
                  score_thr: float = 0.3,
                  ann_file: Optional[str] = None,
                  batch_size: int = 1) -> Tuple[List[Dict[str, Any]], Path]:
    """Predict on each frame of a video; draws and writes the predictions, with one batch in memory at a time.

    Args:
        cfg, checkpoint, device, score_thr: As for :func:`predict`.
        video: The file.
        out_dir: Folder that gets ``predictions.json``, and in ``vis`` the
            drawn video as ``.mp4``, without sound.
        ann_file: COCO annotation file with the ids of categories. Defaults to
            None: they are numbered from 1.
        batch_size: Frames at a time. Defaults to 1.

    Returns:
        The content of ``predictions.json``, as for :func:`predict`, but with
        ``frame``, the frame number from 0, instead of ``file_name``; it is
        also the ``image_id`` of detections. And the path of the drawn video.

    Raises:
        ArgumentError: If ``batch_size`` is not positive.
        UserError: If the video, the checkpoint, the device or ``ann_file``
            can't be used, or the drawn video can't be written.
    """
    target = Path(out_dir) / _DRAWN / (Path(video).name.removesuffix(SUFFIX) + SUFFIX)
    _check([video], [target], batch_size)
    check_folder(out_dir)
    frames = VideoFile(video)
    with safe_loading():
        content = read_ids(ann_file) if ann_file else None
        predictor = make_predictor(cfg, checkpoint, str(find_device(device)), score_thr)
        if content and predictor.ids:
            predictor.ids = category_ids(content, predictor.classes)
        rows = []
        target.parent.mkdir(parents=True, exist_ok=True)
        with write_video(target, frames.rate) as append:
            numbered = enumerate(track(frames, 'Inference', frames.length))
            for batch in _batches(numbered, batch_size):
                for (number, frame), sample in zip(batch, predictor([frame for _, frame in batch])):
                    where = dict(image_id=number, frame=number) if predictor.ids else dict(frame=number)
                    rows += [dict(where, **row) for row in predictor.rows(sample)]
                    append(predictor.draw(frame, sample))
    return _write(out_dir, rows), target


class _Skipping:
    """Predicts for the images of a batch, but for those that the pipeline fails on.

    Args:
        predictor: Predicts for a batch.
        hopeless: If so many images fail and none before, it raises.

    Attributes:
        errors: One for each image that was skipped.
    """

    def __init__(self, predictor: Predictor, hopeless: int) -> None:
        self._predictor, self._hopeless, self._works = predictor, hopeless, False
        self.errors: List[DataError] = []

    def __call__(self, batch: Sequence[_Job]) -> List[Tuple[_Job, Any]]:
        try:
            samples = self._predictor([image for image, *_ in batch])
        except DataError as error:
            if len(batch) > 1:  # which one it is shows only one by one
                return [pair for job in batch for pair in self([job])]
            self._skip(batch[0], error)
            return []
        self._works = True
        return list(zip(batch, samples))

    def _skip(self, job: _Job, error: DataError) -> None:
        self.errors.append(error)
        if not self._works and len(self.errors) == self._hopeless:
            others = f', and on the {self._hopeless - 1} images after it' if self._hopeless > 1 else ''
            raise DataError(f'{self.errors[0]}{others}') from error
        print_log(f'skipped: {error}', 'current', logging.WARNING)
        _, _, drawn, _ = job
        drawn.unlink(missing_ok=True)  # of an earlier run


def _write(out_dir: str, rows: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(out_dir) / 'predictions.json', json.dumps(rows, indent=1).encode())
    return rows


def _names(images: Sequence[str]) -> List[str]:
    """Names of images: bare file names or, if these are not unique, paths relative to their common folder."""
    paths = [Path(os.path.abspath(image)) for image in images]
    names = [path.name for path in paths]
    if len(set(names)) == len(set(paths)):
        return names
    folder = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(folder).as_posix() for path in paths]


def _drawn_file(out_dir: str, name: str) -> Path:
    """The path of a drawn image, in a format that OpenCV writes."""
    return Path(out_dir) / _DRAWN / (name if Path(name).suffix.lower() in IMAGE_SUFFIXES else f'{name}.png')


def _check(sources: Sequence[str], targets: Sequence[Path], batch_size: int) -> None:
    if batch_size < 1:
        raise ArgumentError(f'batch_size must be at least 1, got {batch_size}')
    read = {Path(source).resolve() for source in sources}
    overwritten = next((target for target in targets if target.resolve() in read), None)
    if overwritten:
        raise UserError(f"'{overwritten}' would be overwritten by its drawn picture. Choose another folder for the "
                        'results (--out-dir)')


def _batches(items: Iterable[_T], size: int) -> Iterator[List[_T]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch
