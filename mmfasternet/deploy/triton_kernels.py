"""RoIAlign and the pasting of masks on a GPU, each as one kernel of Triton's."""

from typing import Optional, Sequence, Tuple

import torch
from mmcv.ops import RoIAlign
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.model import BaseModule
from torch import Tensor, nn

try:
    import triton
    import triton.language as tl
except ImportError:  # not on every system
    triton = None

MAX_LEVELS = 5
_OLDEST = (7, 0)  # compute capability that Triton compiles for
_PIXELS = 1024  # of a mask's row, in one program


def available(device: torch.device) -> bool:
    """Whether the kernels run on a device."""
    return triton is not None and device.type == 'cuda' and torch.cuda.get_device_capability(device) >= _OLDEST


if triton is not None:

    @triton.jit(do_not_specialize=['h0', 'w0', 'h1', 'w1', 'h2', 'w2', 'h3', 'w3', 'h4', 'w4'])
    def _roi_align_kernel(map0, map1, map2, map3, map4, h0, w0, h1, w1, h2, w2, h3, w3, h4, w4, s0, s1, s2, s3, s4,
                          rois, levels, out, channels, OUT_H: tl.constexpr, OUT_W: tl.constexpr,
                          SAMPLES: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
        """One bin of a RoI, for a block of channels."""
        pid = tl.program_id(0)
        roi = pid // (OUT_H * OUT_W)
        row = (pid % (OUT_H * OUT_W)) // OUT_W
        column = pid % OUT_W
        level = tl.load(levels + roi)
        source, height, width, scale = map0, h0, w0, s0
        if level == 1:
            source, height, width, scale = map1, h1, w1, s1
        if level == 2:
            source, height, width, scale = map2, h2, w2, s2
        if level == 3:
            source, height, width, scale = map3, h3, w3, s3
        if level == 4:
            source, height, width, scale = map4, h4, w4, s4
        image = tl.load(rois + roi * 5)
        x1 = tl.load(rois + roi * 5 + 1)
        y1 = tl.load(rois + roi * 5 + 2)
        x2 = tl.load(rois + roi * 5 + 3)
        y2 = tl.load(rois + roi * 5 + 4)
        # The sum is no number, or infinite, if one of them is.
        usable = tl.abs(x1) + tl.abs(y1) + tl.abs(x2) + tl.abs(y2) < 1e8
        x1 = tl.where(usable, x1, 0.)
        y1 = tl.where(usable, y1, 0.)
        x2 = tl.where(usable, x2, 0.)
        y2 = tl.where(usable, y2, 0.)
        shift = 0.5 if ALIGNED else 0.
        x1 = x1 * scale - shift
        y1 = y1 * scale - shift
        roi_w = x2 * scale - shift - x1
        roi_h = y2 * scale - shift - y1
        if not ALIGNED:
            roi_w = tl.maximum(roi_w, 1.)
            roi_h = tl.maximum(roi_h, 1.)
        bin_w = roi_w / OUT_W
        bin_h = roi_h / OUT_H
        if SAMPLES > 0:
            grid_w = SAMPLES + 0 * height
            grid_h = SAMPLES + 0 * height
        else:  # as many as the bin has positions; of a RoI that is many times as large as the map, not so many
            grid_w = tl.ceil(tl.minimum(tl.maximum(bin_w, 0.), 4. * width)).to(tl.int32)
            grid_h = tl.ceil(tl.minimum(tl.maximum(bin_h, 0.), 4. * height)).to(tl.int32)
        count = tl.maximum(grid_w * grid_h, 1)
        start = image.to(tl.int64) * height * width
        offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = offsets < channels
        total = tl.zeros((BLOCK, ), dtype=tl.float32)
        for iy in range(0, grid_h):
            y = y1 + row * bin_h + (iy + 0.5) * bin_h / grid_h
            reads_y = usable & (y >= -1.) & (y <= height)
            y = tl.minimum(tl.maximum(y, 0.), height - 1.)
            y_low = y.to(tl.int32)
            y_high = tl.minimum(y_low + 1, height - 1)
            ly = y - y_low
            low_row = (start + y_low.to(tl.int64) * width) * channels
            high_row = (start + y_high.to(tl.int64) * width) * channels
            for ix in range(0, grid_w):
                x = x1 + column * bin_w + (ix + 0.5) * bin_w / grid_w
                reads = reads_y & (x >= -1.) & (x <= width)
                x = tl.minimum(tl.maximum(x, 0.), width - 1.)
                x_low = x.to(tl.int32)
                x_high = tl.minimum(x_low + 1, width - 1)
                lx = x - x_low
                if reads:
                    a = tl.load(source + low_row + x_low * channels + offsets, mask=inside, other=0.).to(tl.float32)
                    b = tl.load(source + low_row + x_high * channels + offsets, mask=inside, other=0.).to(tl.float32)
                    c = tl.load(source + high_row + x_low * channels + offsets, mask=inside, other=0.).to(tl.float32)
                    d = tl.load(source + high_row + x_high * channels + offsets, mask=inside, other=0.).to(tl.float32)
                    total += (1 - ly) * ((1 - lx) * a + lx * b) + ly * ((1 - lx) * c + lx * d)
        target = out + pid.to(tl.int64) * channels + offsets
        tl.store(target, (total / count).to(out.dtype.element_ty), mask=inside)

    @triton.jit(do_not_specialize=['height', 'width'])
    def _paste_kernel(masks, boxes, out, height, width, mask_h, mask_w, threshold, BLOCK: tl.constexpr):
        """A part of a row of an image, for one mask."""
        row = tl.program_id(0)
        box = row // height
        y = row % height
        x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        x0 = tl.load(boxes + box * 4)
        y0 = tl.load(boxes + box * 4 + 1)
        x1 = tl.load(boxes + box * 4 + 2)
        y1 = tl.load(boxes + box * 4 + 3)
        gy = (y + 0.5 - y0) / (y1 - y0) * 2 - 1
        gx = (x + 0.5 - x0) / (x1 - x0) * 2 - 1
        gy = tl.where(tl.abs(gy) == float('inf'), 0., gy)
        gx = tl.where(tl.abs(gx) == float('inf'), 0., gx)
        sy = ((gy + 1) * mask_h - 1) / 2
        sx = ((gx + 1) * mask_w - 1) / 2
        # What lies outside weighs nothing, as does what is no number.
        reads_y = (sy > -1.) & (sy < mask_h)
        reads_x = (sx > -1.) & (sx < mask_w)
        sy = tl.where(reads_y, sy, 0.)
        sx = tl.where(reads_x, sx, 0.)
        low_y = tl.floor(sy)
        low_x = tl.floor(sx)
        iy = low_y.to(tl.int32)
        ix = low_x.to(tl.int32)
        upper = tl.where(reads_y & (iy >= 0), 1 - (sy - low_y), 0.)
        lower = tl.where(reads_y & (iy + 1 < mask_h), sy - low_y, 0.)
        left = tl.where(reads_x & (ix >= 0), 1 - (sx - low_x), 0.)
        right = tl.where(reads_x & (ix + 1 < mask_w), sx - low_x, 0.)
        source = masks + box.to(tl.int64) * mask_h * mask_w
        first = source + tl.maximum(iy, 0) * mask_w
        second = source + tl.minimum(iy + 1, mask_h - 1) * mask_w
        ix_low = tl.maximum(ix, 0)
        ix_high = tl.minimum(ix + 1, mask_w - 1)
        value = upper * (left * tl.load(first + ix_low).to(tl.float32)
                         + right * tl.load(first + ix_high).to(tl.float32))
        value += lower * (left * tl.load(second + ix_low).to(tl.float32)
                          + right * tl.load(second + ix_high).to(tl.float32))
        target = out + row.to(tl.int64) * width + x
        tl.store(target, (value >= threshold).to(tl.uint8), mask=x < width)


def roi_align_levels(maps: Sequence[Tensor], rois: Tensor, levels: Tensor, output_size: Tuple[int, int],
                     spatial_scales: Sequence[float], sampling_ratio: int, aligned: bool) -> Tensor:
    """RoIAlign with average pooling over several levels, for inference.

    Coordinates and sums are float32, whatever the maps are.

    Args:
        maps: At most five of ``(N, C, H, W)``, of one type; best in the
            channels-last memory format, else they are brought there.
        rois: ``(R, 5)`` float32: index of the image, then x1, y1, x2, y2 in
            pixels of the image.
        levels: ``(R, )``: the map that each RoI reads.
        output_size: Bins along y and x.
        spatial_scales: Side of each map over the side of the image.
        sampling_ratio: Samples in a bin along each axis; 0 for as many as the
            bin has positions, rounded up.
        aligned: Take pixels for squares around their coordinates.

    Returns:
        ``(R, C, *output_size)`` in the type of the maps and the channels-last
        memory format; zeros for a RoI that is NaN or infinite.
    """
    maps = [x.contiguous(memory_format=torch.channels_last) for x in maps]
    channels, (height, width) = maps[0].shape[1], output_size
    out = maps[0].new_empty(len(rois), height, width, channels)
    filled = [*maps, *maps[-1:] * (MAX_LEVELS - len(maps))]
    scales = [*spatial_scales, *[1.] * (MAX_LEVELS - len(maps))]
    if out.numel():
        block = min(triton.next_power_of_2(channels), 256)
        _roi_align_kernel[(len(rois) * height * width, triton.cdiv(channels, block))](
            *filled, *(side for x in filled for side in x.shape[2:]), *scales, rois.contiguous(),
            levels.clamp(0, len(maps) - 1).int(), out, channels, height, width, sampling_ratio, aligned, block,
            num_warps=1)
    return out.permute(0, 3, 1, 2)


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """Paste masks into images as MMDetection does on a GPU: bilinear, zero outside of the boxes, over a threshold.

    Args:
        masks: Probabilities in the boxes, ``(R, h, w)``.
        boxes: ``(R, 4)`` float32: x1, y1, x2, y2 in pixels of the image.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        threshold: The least probability of an object's pixel.

    Returns:
        ``(R, height, width)``, bool.
    """
    out = torch.empty(len(masks), height, width, dtype=torch.bool, device=masks.device)
    if out.numel():
        _paste_kernel[(len(masks) * height, triton.cdiv(width, _PIXELS))](
            masks.contiguous(), boxes.contiguous(), out.view(torch.uint8), height, width, *masks.shape[1:],
            float(threshold), _PIXELS, num_warps=4)
    return out


class TritonRoIExtractor(SingleRoIExtractor):
    """MMDetection's ``SingleRoIExtractor`` on a GPU, by :func:`roi_align_levels`: it does not wait for the GPU.

    Args:
        extractor: The extractor; see :meth:`of`.
    """

    def __init__(self, extractor: SingleRoIExtractor) -> None:
        BaseModule.__init__(self)
        self.roi_layers = extractor.roi_layers
        self.out_channels = extractor.out_channels
        self.featmap_strides = extractor.featmap_strides
        self.finest_scale = extractor.finest_scale

    @classmethod
    def of(cls, module: nn.Module) -> Optional['TritonRoIExtractor']:
        """One that computes the output of a module; None if it can't."""
        known = type(module) is SingleRoIExtractor and len(module.roi_layers) <= MAX_LEVELS and all(
            type(layer) is RoIAlign and layer.pool_mode == 'avg' for layer in module.roi_layers)
        alike = known and len({(layer.output_size, layer.sampling_ratio, layer.aligned)
                               for layer in module.roi_layers}) == 1
        return cls(module) if alike else None

    def forward(self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: Optional[float] = None) -> Tensor:
        """Pool RoIs ``(R, 5)`` from the maps of their level to ``(R, C, *output_size)``, in the type of the maps."""
        rois, layer = rois.float(), self.roi_layers[0]
        levels = self.map_roi_levels(rois, len(feats))
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        return roi_align_levels(feats, rois, levels, layer.output_size,
                                [each.spatial_scale for each in self.roi_layers], layer.sampling_ratio, layer.aligned)
