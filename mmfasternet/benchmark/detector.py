"""Latency of a whole detector, from image tensor to boxes and masks."""

from typing import Optional, Tuple

import torch
from mmdet.apis import init_detector
from mmdet.structures import DetDataSample
from mmengine.config import Config

from mmfasternet.benchmark.timing import LatencyRecord, measure
from mmfasternet.checkpoints import register_safe_globals
from mmfasternet.engine.checks import check_checkpoint


def measure_detector(cfg: Config,
                     name: str,
                     checkpoint: Optional[str] = None,
                     size: Tuple[int, int] = (800, 1280),
                     device: Optional[str] = None,
                     runs: int = 20) -> LatencyRecord:
    """Time a detector on one random image: normalisation, network and post-processing.

    Args:
        cfg: Config of the detector.
        name: Its name in the record.
        checkpoint: Its weights; how many objects they find weighs on the
            latency of the heads. Defaults to None, random weights.
        size: Height and width of the image in pixels. Defaults to (800, 1280).
        device: Such as ``'cpu'``. Defaults to None, the first GPU if any.
        runs: Timed runs. Defaults to 20.

    Raises:
        CheckpointError: If the checkpoint does not exist.
    """
    if checkpoint:
        check_checkpoint(checkpoint)
    register_safe_globals()
    target = torch.device(device or ('cuda:0' if torch.cuda.is_available() else 'cpu'))
    model = init_detector(cfg, checkpoint, palette='random', device=str(target))
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1., 1.), batch_input_shape=size))
    batch = dict(inputs=[image], data_samples=[sample])
    with torch.no_grad():
        return measure(lambda: model.test_step(batch), name, target, image[None].float(), runs=runs)
