"""Triton kernels for RoIAlign, pasting of masks and non-maximum suppression on a GPU."""

import functools
import os
import shutil
from typing import Optional, Sequence, Tuple, Type

import torch
from torch import Tensor, nn

from mmfasternet.deploy.roi_align import DeployedRoIExtractor

try:
    import triton
    import triton.language as tl
except ImportError:  # not on every system
    triton = None

#: What Triton raises when it compiles a kernel; not a RuntimeError, unlike PyTorch's.
TRITON_ERRORS: Tuple[Type[Exception], ...] = () if triton is None else (triton.errors.TritonError, )
MAX_LEVELS = 5
_OLDEST = (7, 0)  # compute capability that Triton compiles for
_BITS = 64  # of the words that mark overlapping boxes
_ROWS, _COLUMNS = 4, 128  # of a part of an image that is pasted in one step
_STRIPS = 8  # such parts, one below the other, in one program


@functools.cache
def available(device: torch.device) -> bool:
    """Whether the kernels run on a device."""
    return device.type == 'cuda' and torch.cuda.get_device_capability(device) >= _OLDEST and not missing()


def missing() -> Optional[str]:
    """What Triton needs and is not there: itself, or the C compiler for its launchers; None if both are."""
    if triton is None:
        return 'Triton'
    compilers = (os.environ['CC'], ) if 'CC' in os.environ else ('gcc', 'clang')  # as Triton looks for them
    return None if any(map(shutil.which, compilers)) else 'a C compiler'


if triton is not None:

    @triton.jit(do_not_specialize=['h0', 'w0', 'h1', 'w1', 'h2', 'w2', 'h3', 'w3', 'h4', 'w4', 'images',
                                  'num_levels'])
    def _roi_align_kernel(map0, map1, map2, map3, map4, h0, w0, h1, w1, h2, w2, h3, w3, h4, w4, s0, s1, s2, s3, s4,
                          rois, levels, out, images, num_levels, channels, OUT_H: tl.constexpr, OUT_W: tl.constexpr,
                          SAMPLES: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
        """One bin of a RoI, for a block of channels."""
        pid = tl.program_id(0)
        roi = pid // (OUT_H * OUT_W)
        row = (pid % (OUT_H * OUT_W)) // OUT_W
        column = pid % OUT_W
        level = tl.minimum(tl.maximum(tl.load(levels + roi), 0), num_levels - 1)
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
        # The sum is NaN or infinite if one of them is.
        usable = (tl.abs(x1) + tl.abs(y1) + tl.abs(x2) + tl.abs(y2) < 1e8) & (image >= 0.) & (image < images)
        image = tl.where(usable, image, 0.)
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
        # The operator / is a product with the reciprocal, which can round 42 / 7 up: one more sample than mmcv takes.
        bin_w = tl.div_rn(roi_w, OUT_W * 1.)
        bin_h = tl.div_rn(roi_h, OUT_H * 1.)
        if SAMPLES > 0:
            grid_w = SAMPLES + 0 * height
            grid_h = SAMPLES + 0 * height
        else:  # the number of positions in the bin, capped for RoIs many times as large as the map
            grid_w = tl.ceil(tl.minimum(tl.maximum(bin_w, 0.), 4. * width)).to(tl.int32)
            grid_h = tl.ceil(tl.minimum(tl.maximum(bin_h, 0.), 4. * height)).to(tl.int32)
        count = tl.maximum(grid_w * grid_h, 1)
        start = image.to(tl.int64) * height * width
        offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = offsets < channels
        total = tl.zeros((BLOCK, ), dtype=tl.float32)
        for iy in range(0, grid_h):
            y = y1 + row * bin_h + tl.div_rn((iy + 0.5) * bin_h, grid_h.to(tl.float32))
            if usable & (y >= -1.) & (y <= height):
                y = tl.minimum(tl.maximum(y, 0.), height - 1.)
                y_low = y.to(tl.int32)
                y_high = tl.minimum(y_low + 1, height - 1)
                ly = y - y_low
                low_row = (start + y_low.to(tl.int64) * width) * channels
                high_row = (start + y_high.to(tl.int64) * width) * channels
                for ix in range(0, grid_w):
                    x = x1 + column * bin_w + tl.div_rn((ix + 0.5) * bin_w, grid_w.to(tl.float32))
                    if (x >= -1.) & (x <= width):
                        x = tl.minimum(tl.maximum(x, 0.), width - 1.)
                        x_low = x.to(tl.int32)
                        x_high = tl.minimum(x_low + 1, width - 1)
                        lx = x - x_low
                        left = source + x_low.to(tl.int64) * channels + offsets
                        right = source + x_high.to(tl.int64) * channels + offsets
                        a = tl.load(left + low_row, mask=inside, other=0.).to(tl.float32)
                        b = tl.load(right + low_row, mask=inside, other=0.).to(tl.float32)
                        c = tl.load(left + high_row, mask=inside, other=0.).to(tl.float32)
                        d = tl.load(right + high_row, mask=inside, other=0.).to(tl.float32)
                        total += (1 - ly) * ((1 - lx) * a + lx * b) + ly * ((1 - lx) * c + lx * d)
        target = out + pid.to(tl.int64) * channels + offsets
        tl.store(target, (total / count).to(out.dtype.element_ty), mask=inside)

    @triton.jit
    def _place_in_mask(pixels, low, high, size):
        """Positions of pixel centres in a mask of ``size`` from ``low`` to ``high``, as in grid_sample."""
        place = tl.div_rn(pixels + 0.5 - low, high - low) * 2 - 1
        place = tl.where(tl.abs(place) == float('inf'), 0., place)
        return ((place + 1) * size - 1) * 0.5

    @triton.jit(do_not_specialize=['height', 'tiles_y', 'tiles_x'])
    def _paste_kernel(masks, boxes, out, height, width, mask_h, mask_w, tiles_y, tiles_x, threshold,
                      STRIPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
        """Pastes one mask into a rectangle of an image, in strips."""
        pid = tl.program_id(0)
        box = pid // (tiles_y * tiles_x)
        top = (pid // tiles_x) % tiles_y * (STRIPS * ROWS)
        first = (pid % tiles_x) * COLUMNS
        x0 = tl.load(boxes + box * 4)
        y0 = tl.load(boxes + box * 4 + 1)
        x1 = tl.load(boxes + box * 4 + 2)
        y1 = tl.load(boxes + box * 4 + 3)
        # Positions are monotonic along a row or column, so its ends tell whether it lies outside. Infinite ones were
        # moved into the mask, and NaN compares as inside: such rows are computed.
        start = _place_in_mask(first, x0, x1, mask_w)
        end = _place_in_mask(first + COLUMNS - 1, x0, x1, mask_w)
        outside_x = ((start <= -1.) & (end <= -1.)) | ((start >= mask_w) & (end >= mask_w))
        x = first + tl.arange(0, COLUMNS)
        sx = _place_in_mask(x, x0, x1, mask_w)
        reads_x = (sx > -1.) & (sx < mask_w)
        number_x = sx == sx
        sx = tl.where(reads_x, sx, 0.)
        ix = tl.floor(sx).to(tl.int32)
        right = sx - ix
        left = (ix + 1) - sx
        has_left = reads_x & (ix >= 0)
        has_right = reads_x & (ix + 1 < mask_w)
        source = masks + box.to(tl.int64) * mask_h * mask_w
        for strip in range(0, STRIPS):
            first_row = top + strip * ROWS
            start = _place_in_mask(first_row, y0, y1, mask_h)
            end = _place_in_mask(first_row + ROWS - 1, y0, y1, mask_h)
            outside_y = ((start <= -1.) & (end <= -1.)) | ((start >= mask_h) & (end >= mask_h))
            y = first_row + tl.arange(0, ROWS)
            target = out + (box.to(tl.int64) * height + y)[:, None] * width + x[None, :]
            stored = (y < height)[:, None] & (x < width)[None, :]
            if (outside_x | outside_y) & (threshold > 0.):
                tl.store(target, tl.zeros((ROWS, COLUMNS), dtype=tl.uint8), mask=stored)
            else:
                sy = _place_in_mask(y, y0, y1, mask_h)
                reads_y = (sy > -1.) & (sy < mask_h)
                number = (sy == sy)[:, None] & number_x[None, :]
                sy = tl.where(reads_y, sy, 0.)
                iy = tl.floor(sy).to(tl.int32)
                lower = (sy - iy)[:, None]
                upper = ((iy + 1) - sy)[:, None]
                has_upper = (reads_y & (iy >= 0))[:, None] & stored
                has_lower = (reads_y & (iy + 1 < mask_h))[:, None] & stored
                corner = source + (iy * mask_w)[:, None] + ix[None, :]
                a = tl.load(corner, mask=has_upper & has_left[None, :], other=0.).to(tl.float32)
                b = tl.load(corner + 1, mask=has_upper & has_right[None, :], other=0.).to(tl.float32)
                c = tl.load(corner + mask_w, mask=has_lower & has_left[None, :], other=0.).to(tl.float32)
                d = tl.load(corner + mask_w + 1, mask=has_lower & has_right[None, :], other=0.).to(tl.float32)
                value = a * (left[None, :] * upper) + b * (right[None, :] * upper)
                value = value + c * (left[None, :] * lower) + d * (right[None, :] * lower)
                tl.store(target, ((value >= threshold) & number).to(tl.uint8), mask=stored)

    @triton.jit
    def _either(a, b):
        return a | b

    @triton.jit(do_not_specialize=['count', 'words'])
    def _overlap_kernel(boxes, groups, overlaps, count, words, threshold, BLOCK: tl.constexpr):
        """Computes which of 64 boxes overlap which of 64 later ones, one bit per pair."""
        if tl.program_id(2) >= tl.program_id(1):
            image = tl.program_id(0).to(tl.int64)
            rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
            columns = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
            row = boxes + (image * count + rows) * 4
            column = boxes + (image * count + columns) * 4
            has_row = rows < count
            has_column = columns < count
            ax0 = tl.load(row, mask=has_row, other=0.)[:, None]
            ay0 = tl.load(row + 1, mask=has_row, other=0.)[:, None]
            ax1 = tl.load(row + 2, mask=has_row, other=0.)[:, None]
            ay1 = tl.load(row + 3, mask=has_row, other=0.)[:, None]
            bx0 = tl.load(column, mask=has_column, other=0.)[None, :]
            by0 = tl.load(column + 1, mask=has_column, other=0.)[None, :]
            bx1 = tl.load(column + 2, mask=has_column, other=0.)[None, :]
            by1 = tl.load(column + 3, mask=has_column, other=0.)[None, :]
            a_group = tl.load(groups + image * count + rows, mask=has_row, other=-1)[:, None]
            b_group = tl.load(groups + image * count + columns, mask=has_column, other=-2)[None, :]
            width = tl.maximum(tl.minimum(ax1, bx1) - tl.maximum(ax0, bx0), 0.)
            height = tl.maximum(tl.minimum(ay1, by1) - tl.maximum(ay0, by0), 0.)
            common = width * height
            union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - common
            over = (common > threshold * union) & (a_group == b_group) & (rows[:, None] < columns[None, :])
            bits = tl.where(over, 1, 0).to(tl.int64) << tl.arange(0, BLOCK).to(tl.int64)[None, :]
            tl.store(overlaps + (image * count + rows) * words + tl.program_id(2), tl.sum(bits, axis=1), mask=has_row)

    @triton.jit(do_not_specialize=['count', 'words', 'limit'])
    def _keep_kernel(overlaps, valid, kept, numbers, count, words, limit, BLOCK: tl.constexpr, WORDS: tl.constexpr):
        """Keeps the boxes of an image that no earlier kept box overlaps, 64 at a time."""
        image = tl.program_id(0).to(tl.int64)
        places = tl.arange(0, BLOCK)
        each = tl.arange(0, WORDS)
        removed = tl.zeros((WORDS, ), dtype=tl.int64)
        total = 0 * count
        block = 0 * count
        while (block < words) & (total < limit):
            rows = block * BLOCK + places
            has_row = rows < count
            own = tl.load(overlaps + (image * count + rows) * words + block, mask=has_row, other=0)
            gone = tl.sum(tl.where(each == block, removed, 0), axis=0)
            free = tl.load(valid + image * count + rows, mask=has_row, other=0) != 0
            free = tl.where(((gone >> places.to(tl.int64)) & 1) == 0, free.to(tl.int32), 0)
            # Whether a box is kept depends only on earlier boxes: the number of iterations is the length of the longest
            # chain.
            alive = free
            changed = 1 + 0 * count
            while changed > 0:
                hit = tl.reduce(tl.where(alive != 0, own, 0), 0, _either)
                now = tl.where(((hit >> places.to(tl.int64)) & 1) == 0, free, 0)
                changed = tl.sum(tl.where(now != alive, 1, 0), axis=0)
                alive = now
            position = total + tl.cumsum(alive, axis=0) - 1
            tl.store(kept + image * limit + position, rows.to(tl.int64), mask=(alive != 0) & (position < limit))
            total += tl.sum(alive, axis=0)
            lines = overlaps + (image * count + rows[:, None]) * words + each[None, :]
            reads = (alive[:, None] != 0) & (each[None, :] > block) & (each[None, :] < words)
            later = tl.load(lines, mask=reads, other=0)
            removed = removed | tl.reduce(later, 0, _either)
            block += 1
        tl.store(numbers + image, tl.minimum(total, limit).to(tl.int64))


def roi_align_levels(maps: Sequence[Tensor], rois: Tensor, levels: Tensor, output_size: Tuple[int, int],
                     spatial_scales: Sequence[float], sampling_ratio: int, aligned: bool) -> Tensor:
    """RoIAlign with average pooling over several levels, for inference.

    Coordinates and sums are float32, whatever the maps are.

    Args:
        maps: At most five of ``(N, C, H, W)``, of one type; best in the
            channels-last memory format; others are converted.
        rois: ``(R, 5)`` float32: index of the image, then x1, y1, x2, y2 in
            pixels of the image.
        levels: ``(R, )``: the map that each RoI reads; out-of-range numbers
            are clamped.
        output_size: Bins along y and x.
        spatial_scales: Size of each map over the size of the image.
        sampling_ratio: Samples per bin along each axis; 0 for the number of
            positions in the bin, rounded up.
        aligned: Treat pixels as squares around their coordinates.

    Returns:
        ``(R, C, *output_size)`` in the type of the maps and the channels-last
        memory format; zeros for a RoI that is NaN or infinite or has no valid
        image index.
    """
    maps = [x.contiguous(memory_format=torch.channels_last) for x in maps]
    channels, (height, width) = maps[0].shape[1], output_size
    out = maps[0].new_empty(len(rois), height, width, channels)
    filled = [*maps, *maps[-1:] * (MAX_LEVELS - len(maps))]
    scales = [*spatial_scales, *[1.] * (MAX_LEVELS - len(maps))]
    if out.numel():
        block = min(triton.next_power_of_2(channels), 256)
        with torch.cuda.device_of(out):
            _roi_align_kernel[(len(rois) * height * width, triton.cdiv(channels, block))](
                *filled, *(side for x in filled for side in x.shape[2:]), *scales, rois.float().contiguous(),
                levels.contiguous(), out, len(maps[0]), len(maps), channels, height, width, sampling_ratio, aligned,
                block, num_warps=1)
    return out.permute(0, 3, 1, 2)


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """Paste masks into images as MMDetection does on a GPU: bilinear, zero outside of the boxes, with a threshold.

    Args:
        masks: Probabilities in the boxes, ``(R, h, w)``.
        boxes: ``(R, 4)`` float32: x1, y1, x2, y2 in pixels of the image.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        threshold: Minimum probability of an object's pixel.

    Returns:
        ``(R, height, width)``, bool.
    """
    out = torch.empty(len(masks), height, width, dtype=torch.bool, device=masks.device)
    if out.numel():
        tiles_y, tiles_x = triton.cdiv(height, _STRIPS * _ROWS), triton.cdiv(width, _COLUMNS)
        with torch.cuda.device_of(out):
            _paste_kernel[(len(masks) * tiles_y * tiles_x, )](
                masks.contiguous(), boxes.float().contiguous(), out.view(torch.uint8), height, width, *masks.shape[1:],
                tiles_y, tiles_x, float(threshold), _STRIPS, _ROWS, _COLUMNS, num_warps=8)
    return out


def suppress(boxes: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int) -> Tuple[Tensor, Tensor]:
    """Non-maximum suppression with fixed sizes: nothing waits for the GPU.

    Args:
        boxes: ``(N, K, 4)`` float32: x1, y1, x2, y2, best first; at most
            65,536 per image.
        groups: ``(N, K)`` int64: boxes of different classes or levels don't
            suppress each other.
        valid: ``(N, K)`` bool: invalid boxes are not kept, and suppress
            nothing.
        threshold: Intersection over union above which a box is suppressed.
        limit: Maximum number of boxes to keep per image.

    Returns:
        Indices of the kept boxes, ``(N, limit)``, 0 after the last; and their
        numbers, ``(N, )``.
    """
    num_images, count = boxes.shape[:2]
    words = triton.cdiv(count, _BITS)
    overlaps = torch.empty(num_images, count, words, dtype=torch.int64, device=boxes.device)
    kept = torch.zeros(num_images, limit, dtype=torch.int64, device=boxes.device)
    numbers = torch.empty(num_images, dtype=torch.int64, device=boxes.device)
    with torch.cuda.device_of(boxes):
        _overlap_kernel[(num_images, words, words)](
            boxes.contiguous(), groups.contiguous(), overlaps, count, words, threshold, _BITS, num_warps=4)
        _keep_kernel[(num_images, )](
            overlaps, valid.contiguous().view(torch.uint8), kept, numbers, count, words, limit, _BITS,
            triton.next_power_of_2(words), num_warps=8)
    return kept, numbers


class TritonRoIExtractor(DeployedRoIExtractor):
    """MMDetection's ``SingleRoIExtractor`` on a GPU with :func:`roi_align_levels`: it does not wait for the GPU.

    Args:
        extractor: The extractor; see :meth:`of`.
    """

    @classmethod
    def of(cls, module: nn.Module) -> Optional[DeployedRoIExtractor]:
        """As in the base class; none for more than five levels, or for levels that are pooled differently."""
        made = super().of(module)
        alike = made is not None and len(made.roi_layers) <= MAX_LEVELS and len(
            {(layer.output_size, layer.sampling_ratio, layer.aligned) for layer in made.roi_layers}) == 1
        return made if alike else None

    def forward(self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: Optional[float] = None) -> Tensor:
        """Pool RoIs ``(R, 5)`` from the maps of their level to ``(R, C, *output_size)``, in the type of the maps."""
        rois, layer = rois.float(), self.roi_layers[0]
        levels = self.map_roi_levels(rois, len(feats))
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        return self.arranged(roi_align_levels(
            feats, rois, levels, layer.output_size, [each.spatial_scale for each in self.roi_layers],
            layer.sampling_ratio, layer.aligned))
