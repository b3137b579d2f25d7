"""Latency of a whole detector, from image tensor to boxes and masks."""

import copy
import itertools
from typing import List, Optional, Sequence, Tuple

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config

from mmfasternet.benchmark.timing import LatencyRecord, measure
from mmfasternet.deploy.manifest import Manifest
from mmfasternet.engine.building import Batch, build_model, load_batches
from mmfasternet.engine.deploying import DeployOptions, is_export, use_exported
from mmfasternet.engine.device import find_device


def measure_detector(cfg: Config,
                     name: str,
                     checkpoint: Optional[str] = None,
                     size: Tuple[int, int] = (800, 1280),
                     images: Optional[List[str]] = None,
                     device: Optional[str] = None,
                     runs: int = 20,
                     deploy: Optional[DeployOptions] = None) -> LatencyRecord:
    """Time a detector, one image at a time: normalisation, network and post-processing.

    How many objects it finds weighs on the latency of its heads: random
    weights or a random image say less than trained weights on real ones.

    Args:
        cfg: Config of the detector.
        name: Its name in the record.
        checkpoint: Its weights, or folder of an export. Defaults to None,
            random weights.
        size: Height and width of a random image in pixels.
            Defaults to (800, 1280).
        images: Image files to take in turn instead, loaded and resized by
            the config's test pipeline before the clock starts; no more than
            there are runs.
            Defaults to None.
        device: Such as ``'cpu'``. Defaults to None, the first GPU if any.
        runs: Timed runs. Defaults to 20.
        deploy: Inference form of the model. Defaults to None, the model as it
            is.

    Raises:
        UserError: If the checkpoint or the device can't be used.
    """
    target, deploy = find_device(device), deploy or DeployOptions()
    form, memory_format = deploy.form, 'NHWC' if deploy.deploy else 'NCHW'
    if checkpoint is not None and is_export(checkpoint):
        file_format = Manifest.read(checkpoint).format
        form, memory_format = f'exported, {file_format}', 'NHWC' if file_format == 'openvino' else 'NCHW'
        cfg = copy.deepcopy(cfg)
        use_exported(cfg, checkpoint, deploy)
        model = build_model(cfg, device=target)
    else:
        model = deploy.apply(build_model(cfg, checkpoint, target), cfg)
    batches = load_batches(cfg, images[:runs]) if images else [random_batch(size)]
    turns = itertools.cycle(batches)
    with torch.no_grad():
        return measure(
            lambda: model.test_step(next(turns)),
            name,
            target,
            sizes_of(batches),
            dtype=getattr(torch, deploy.dtype),
            memory_format=memory_format,
            form=form,
            runs=runs)


def random_batch(size: Tuple[int, int]) -> Batch:
    """A batch of one random image of ``size``, height and width in pixels, as a detector's test pipeline gives it."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1., 1.)))
    return dict(inputs=[image], data_samples=[sample])


def sizes_of(batches: Sequence[Batch]) -> str:
    """The different sizes of the batches' images, such as ``'800x1280'``."""
    return ' '.join(sorted({f'{h}x{w}' for h, w in (tuple(batch['inputs'][0].shape[1:]) for batch in batches)}))
