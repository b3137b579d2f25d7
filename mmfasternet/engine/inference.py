"""Predictions for pictures: drawn, and as a json file in COCO's result format."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from torch import nn

from mmfasternet.checkpoints import read_ahead, safe_loading
from mmfasternet.compat import det_inferencer, image_classification_inferencer
from mmfasternet.datasets.dataset_checks import dataset_classes
from mmfasternet.engine.building import build_model
from mmfasternet.engine.checks import check_weights
from mmfasternet.engine.config import class_of, innermost_dataset, is_classifier, model_of, scope_of, with_text_types
from mmfasternet.engine.device import find_device
from mmfasternet.errors import DataError
from mmfasternet.files import check_folder, write_atomically


def predict(cfg: Config,
            checkpoint: str,
            images: List[str],
            out_dir: str,
            device: Optional[str] = None,
            score_thr: float = 0.3,
            ann_file: Optional[str] = None) -> List[Dict[str, Any]]:
    """Predict, draw and write down what is on some images.

    Args:
        cfg: Config of a detector or a classifier.
        checkpoint: Path or URL of its weights.
        images: Image files.
        out_dir: Folder that gets the drawn images and ``predictions.json``.
        device: Such as ``'cpu'`` or ``'cuda:0'``. Defaults to None, the first
            GPU where there is one.
        score_thr: Detections below this score are omitted. Defaults to 0.3.
        ann_file: COCO annotation file that gives the ids of images, by their
            file names, and of categories. Defaults to None: images and
            classes are counted from 1.

    Returns:
        What ``predictions.json`` holds. Of a detector, a dict for each object
        as COCO's results have it (``image_id``, ``category_id``, ``bbox`` as
        x, y, width, height in pixels, ``score``, ``segmentation`` as RLE),
        with ``file_name`` and ``category_name``. Of a classifier, a dict for
        each image with ``file_name`` and the five likeliest ``classes``
        and ``scores``.

    Raises:
        UserError: If the checkpoint, the device or ``ann_file`` can't be
            used, or ``out_dir`` can't be written.
    """
    check_folder(out_dir)
    device = str(find_device(device))
    cfg = with_text_types(cfg)  # a copy, which the inferencers change
    cfg.model = model_of(cfg)  # MMDetection's looks at the model alone
    with safe_loading():
        if is_classifier(cfg):
            predictions = _classify(cfg, checkpoint, images, out_dir, device)
        else:
            ids = _read_ids(ann_file) if ann_file else None
            predictions = _detect(cfg, checkpoint, images, out_dir, device, score_thr, ids)
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(out_dir) / 'predictions.json', json.dumps(predictions, indent=1).encode())
    return predictions


def _read_ids(ann_file: str) -> Tuple[Dict[str, int], Dict[str, int]]:
    """Image ids by file name and category ids by name."""
    try:
        content = json.loads(Path(ann_file).read_text(encoding='utf-8'))
        return ({Path(image['file_name']).name: image['id'] for image in content['images']},
                {category['name']: category['id'] for category in content['categories']})
    except OSError as error:
        raise DataError(f"annotation file '{ann_file}' can't be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"annotation file '{ann_file}' can't be used for its ids: {error!r}. "
                        f"It must be COCO's format") from None


def _detect(cfg: Config, checkpoint: str, images: List[str], out_dir: str, device: str, score_thr: float,
            ids: Optional[Tuple[Dict[str, int], Dict[str, int]]]) -> List[Dict[str, Any]]:
    has_classes = False

    def check(model: nn.Module, content: Dict[str, Any]) -> None:
        nonlocal has_classes
        check_weights(model, content, checkpoint)
        has_classes = 'dataset_meta' in content.get('meta', {})

    inferencer = det_inferencer(cfg, checkpoint, device, check)
    classes = inferencer.model.dataset_meta['classes']
    if not has_classes:  # MMDetection then takes COCO's names
        with DefaultScope.overwrite_default_scope(scope_of(cfg)):
            classes = dataset_classes(cfg.test_dataloader.dataset) or classes
        inferencer.visualizer.dataset_meta = dict(inferencer.model.dataset_meta, classes=classes)
    names = [Path(image).name for image in images]
    image_ids, category_ids = ids or ({name: i for i, name in enumerate(names, 1)},
                                      {name: i for i, name in enumerate(classes, 1)})
    for kind, wanted, known in (('image', names, image_ids), ('category', classes, category_ids)):
        absent = [name for name in wanted if name not in known]
        if absent:
            raise DataError(f"the annotation file has no {kind} '{absent[0]}' ({len(absent)} in all). Predict "
                            f'without it, or name the one that belongs to these images and this model')
    results = inferencer(images, out_dir=out_dir, pred_score_thr=score_thr, no_save_pred=True)['predictions']
    predictions = []
    for name, result in zip(names, results):
        masks = result.get('masks') or [None] * len(result['labels'])
        for label, score, box, mask in zip(result['labels'], result['scores'], result['bboxes'], masks):
            if score < score_thr:
                continue
            x0, y0, x1, y1 = box
            prediction = dict(
                image_id=image_ids[name],
                file_name=name,
                category_id=category_ids[classes[label]],
                category_name=classes[label],
                bbox=[x0, y0, x1 - x0, y1 - y0],
                score=score)
            if mask is not None:
                prediction['segmentation'] = mask
            predictions.append(prediction)
    return predictions


def _classify(cfg: Config, checkpoint: str, images: List[str], out_dir: str,
              device: str) -> List[Dict[str, Any]]:
    meta = read_ahead(checkpoint).get('meta', {}).get('dataset_meta')
    model = build_model(cfg, checkpoint, torch.device(device))
    inferencer = image_classification_inferencer(cfg, model, meta or _dataset_meta(cfg))
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    predictions = []
    for image, result in zip(images, inferencer(images, show_dir=out_dir)):
        scores, order = torch.from_numpy(result['pred_scores']).sort(descending=True)
        labels = order[:5].tolist()
        names = [inferencer.classes[label] if inferencer.classes else str(label) for label in labels]
        predictions.append(dict(file_name=Path(image).name, classes=names, scores=scores[:5].tolist()))
    return predictions


def _dataset_meta(cfg: Config) -> Dict[str, Any]:
    """What the class of the test data says of them, if there are any."""
    if not cfg.get('test_dataloader'):
        return {}
    return getattr(class_of(innermost_dataset(cfg), DATASETS, scope_of(cfg)), 'METAINFO', {})
