"""Latency of a whole detector, from image tensor to boxes and masks."""

import itertools
from typing import Any, Dict, List, Optional, Tuple

import torch
from mmcv.transforms import Compose
from mmdet.apis import init_detector
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from mmfasternet.benchmark.timing import LatencyRecord, measure
from mmfasternet.checkpoints import safe_loading
from mmfasternet.engine.checks import check_model
from mmfasternet.engine.device import find_device

Batch = Dict[str, Any]


def measure_detector(cfg: Config,
                     name: str,
                     checkpoint: Optional[str] = None,
                     size: Tuple[int, int] = (800, 1280),
                     images: Optional[List[str]] = None,
                     device: Optional[str] = None,
                     runs: int = 20) -> LatencyRecord:
    """Time a detector, one image at a time: normalisation, network and post-processing.

    How many objects it finds weighs on the latency of its heads: random
    weights or a random image say less than trained weights on real ones.

    Args:
        cfg: Config of the detector.
        name: Its name in the record.
        checkpoint: Its weights. Defaults to None, random ones.
        size: Height and width of a random image in pixels.
            Defaults to (800, 1280).
        images: Image files to take in turn instead, loaded and resized by
            the config's test pipeline before the clock starts; no more than
            there are runs.
            Defaults to None.
        device: Such as ``'cpu'``. Defaults to None, the first GPU if any.
        runs: Timed runs. Defaults to 20.

    Raises:
        UserError: If the checkpoint or the device can't be used.
    """
    target = find_device(device)
    with safe_loading():
        check_model(cfg, checkpoint)
        model = init_detector(cfg, checkpoint, palette='random', device=str(target))
    batches = _load_batches(cfg, images[:runs]) if images else [_random_batch(size)]
    sizes = sorted({f'{h}x{w}' for h, w in (tuple(batch['inputs'][0].shape[1:]) for batch in batches)})
    turns = itertools.cycle(batches)
    with torch.no_grad():
        return measure(lambda: model.test_step(next(turns)), name, target, ' '.join(sizes), runs=runs)


def _random_batch(size: Tuple[int, int]) -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1., 1.)))
    return dict(inputs=[image], data_samples=[sample])


def _load_batches(cfg: Config, images: List[str]) -> List[Batch]:
    pipeline = Compose([t for t in cfg.test_dataloader.dataset.pipeline if t.type != 'LoadAnnotations'])
    return [pseudo_collate([pipeline(dict(img_path=path, img_id=index))]) for index, path in enumerate(images)]
