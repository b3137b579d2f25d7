"""Predictions for pictures: drawn, and as a json file in COCO's result format."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
from mmengine.config import Config

from mmfasternet.checkpoints import register_safe_globals
from mmfasternet.datasets import LoadImageFromFile
from mmfasternet.engine.checks import check_checkpoint
from mmfasternet.errors import DataError, UserError

_IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm')


def find_images(path: str) -> List[str]:
    """The image files at ``path``: itself, or those in the folder, sorted by name; all of them are decoded once.

    Raises:
        DataError: If there are none, or one is broken.
    """
    root = Path(path)
    if not root.exists():
        raise DataError(f"image or folder '{path}' does not exist")
    images = [root] if root.is_file() else sorted(p for p in root.iterdir() if p.suffix.lower() in _IMAGE_SUFFIXES)
    if not images:
        raise DataError(f"folder '{path}' holds no image ({', '.join(_IMAGE_SUFFIXES)})")
    load = LoadImageFromFile()
    for image in images:
        load.transform({'img_path': str(image)})
    return [str(image) for image in images]


def predict(cfg: Config,
            checkpoint: str,
            images: List[str],
            out_dir: str,
            device: Optional[str] = None,
            score_thr: float = 0.3) -> List[Dict[str, Any]]:
    """Predict, draw and write down what is on some images.

    Args:
        cfg: Config of a detector or a classifier.
        checkpoint: Path or URL of its weights.
        images: Image files.
        out_dir: Folder that gets the drawn images and ``predictions.json``.
        device: Such as ``'cpu'`` or ``'cuda:0'``. Defaults to None, the first
            GPU where there is one.
        score_thr: Detections below this score are left out. Defaults to 0.3.

    Returns:
        What ``predictions.json`` holds. Of a detector, a dict for each object
        as COCO's results have it (``image_id``, ``category_id``, ``bbox`` as
        x, y, width, height in pixels, ``score``, ``segmentation`` as RLE),
        with ``file_name`` and ``category_name``; ``image_id`` counts the
        images from 1, ``category_id`` the classes. Of a classifier, a dict
        for each image with ``file_name`` and the five likeliest ``classes``
        and ``scores``.

    Raises:
        UserError: If the checkpoint or the device can't be used.
    """
    check_checkpoint(checkpoint)
    if device and torch.device(device).type == 'cuda' and not torch.cuda.is_available():
        raise UserError(f"--device {device}: PyTorch sees no GPU here. Use --device cpu")
    register_safe_globals()
    cfg = cfg.copy()
    for transform in cfg.test_dataloader.dataset.pipeline:
        if transform.type == 'mmfasternet.LoadImageFromFile':  # the inferencers look for the plain name
            transform.type = 'LoadImageFromFile'
    if cfg.model.type.endswith('Classifier'):
        predictions = _classify(cfg, checkpoint, images, out_dir, device)
    else:
        predictions = _detect(cfg, checkpoint, images, out_dir, device, score_thr)
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    (Path(out_dir) / 'predictions.json').write_text(json.dumps(predictions, indent=1))
    return predictions


def _detect(cfg: Config, checkpoint: str, images: List[str], out_dir: str, device: Optional[str],
            score_thr: float) -> List[Dict[str, Any]]:
    from mmdet.apis import DetInferencer
    inferencer = DetInferencer(cfg, checkpoint, device=device)
    results = inferencer(images, out_dir=out_dir, pred_score_thr=score_thr, no_save_pred=True)['predictions']
    classes = inferencer.model.dataset_meta['classes']
    predictions = []
    for index, (image, result) in enumerate(zip(images, results), start=1):
        masks = result.get('masks') or [None] * len(result['labels'])
        for label, score, box, mask in zip(result['labels'], result['scores'], result['bboxes'], masks):
            if score < score_thr:
                continue
            x0, y0, x1, y1 = box
            prediction = dict(
                image_id=index,
                file_name=Path(image).name,
                category_id=label + 1,
                category_name=classes[label],
                bbox=[x0, y0, x1 - x0, y1 - y0],
                score=score)
            if mask is not None:
                prediction['segmentation'] = mask
            predictions.append(prediction)
    return predictions


def _classify(cfg: Config, checkpoint: str, images: List[str], out_dir: str,
              device: Optional[str]) -> List[Dict[str, Any]]:
    from mmpretrain.apis import ImageClassificationInferencer
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    inferencer = ImageClassificationInferencer(cfg, pretrained=checkpoint, device=device)
    predictions = []
    for image, result in zip(images, inferencer(images, show_dir=out_dir)):
        scores, order = torch.from_numpy(result['pred_scores']).sort(descending=True)
        labels = order[:5].tolist()
        names = [inferencer.classes[label] if inferencer.classes else str(label) for label in labels]
        predictions.append(dict(file_name=Path(image).name, classes=names, scores=scores[:5].tolist()))
    return predictions
