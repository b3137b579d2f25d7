"""RoIAlign as a weighted sum of map positions: fast on a CPU with PyTorch's own kernels."""

import functools
import warnings
from typing import NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmcv.ops import RoIAlign
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.model import BaseModule
from torch import Tensor, nn


class _Axis(NamedTuple):
    """Map positions that the bins of RoIs read along one axis.

    Attributes:
        first: First position of each bin, ``(R, B)``.
        count: Number of positions, ``(R, B)``; 0 if a bin reads nothing.
        weights: Weights of the positions from ``first`` on, ``(R, B, K)``.
    """
    first: Tensor
    count: Tensor
    weights: Tensor


def roi_align(feature_map: Tensor, rois: Tensor, output_size: Tuple[int, int], spatial_scale: float,
              sampling_ratio: int, aligned: bool = True) -> Tensor:
    """RoIAlign with average pooling, for inference.

    Each output is a weighted sum of a rectangle of map positions, and the
    weights are products of those along the two axes, because samples lie on a
    grid. Samples that share positions are merged, and the sum over positions
    runs over all channels at once.

    Args:
        feature_map: Map ``(N, C, H, W)``; best in the channels-last memory
            format; others are converted.
        rois: ``(R, 5)`` float32: index of the image, then x1, y1, x2, y2 in
            pixels of the image.
        output_size: Bins along y and x.
        spatial_scale: Size of the map over the size of the image.
        sampling_ratio: Samples per bin along each axis; 0 for the number of
            positions in the bin, rounded up.
        aligned: Treat pixels as squares around their coordinates. Defaults to
            True.

    Returns:
        ``(R, C, *output_size)`` in the dtype of the map and the channels-last
        memory format.
    """
    _, channels, height, width = feature_map.shape
    table = feature_map.permute(0, 2, 3, 1).reshape(-1, channels)
    # A RoI with NaN would read from random positions: it is moved outside of the map, which gives zeros.
    scaled = (rois[:, 1:].float() * spatial_scale - (0.5 if aligned else 0.)).nan_to_num(-2., -2., -2.)
    start, extent = scaled[:, :2], scaled[:, 2:] - scaled[:, :2]
    if not aligned:
        extent = extent.clamp(min=1.)
    x_axis = _axis(start[:, 0], extent[:, 0], output_size[1], sampling_ratio, width)
    y_axis = _axis(start[:, 1], extent[:, 1], output_size[0], sampling_ratio, height)
    indices, offsets, weights = _positions(y_axis, x_axis, rois[:, 0].int() * (height * width), width)
    if feature_map.dtype == torch.float32 and feature_map.device.type == 'cpu':
        # The sparse matrix product is faster here, and does not support smaller types.
        size = (len(offsets) - 1, len(table))
        _make_sparse_remarks()
        matrix = torch.sparse_csr_tensor(offsets, indices, weights, size, check_invariants=False)
        out = matrix @ table
    else:
        out = F.embedding_bag(indices, table, offsets, mode='sum', per_sample_weights=weights.to(table.dtype),
                              include_last_offset=True)
    return out.view(len(rois), *output_size, channels).permute(0, 3, 1, 2)


@functools.cache  # PyTorch gives these warnings only once
def _make_sparse_remarks() -> None:
    """Trigger PyTorch's one-time warnings on sparse matrices (beta state, no checks) with warnings suppressed."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)


def _axis(start: Tensor, extent: Tensor, bins: int, sampling_ratio: int, length: int) -> _Axis:
    """Positions along an axis of ``length`` read by RoIs from ``start`` over ``extent``, ``(R, )`` each."""
    bin_size = extent / bins
    samples = torch.full_like(start, sampling_ratio) if sampling_ratio > 0 else bin_size.ceil()
    steps = torch.arange(max(int(samples.max()), 1) if len(start) else 1, device=start.device)
    place = torch.arange(bins, device=start.device)[None, :, None] * bin_size[:, None, None]
    place = start[:, None, None] + place + (steps + 0.5) * (bin_size / samples.clamp(min=1))[:, None, None]
    counted = (steps < samples[:, None, None]) & (place >= -1) & (place <= length)
    place = place.clamp(0, length - 1)
    low = place.floor()
    fraction = place - low
    low = low.int()
    high = (low + 1).clamp(max=length - 1)
    # Bins that read nothing get the empty range from 0 on.
    first = low.masked_fill(~counted, length).amin(2)
    last = high.masked_fill(~counted, -1).amax(2)
    count = (last - first + 1).clamp(min=0)
    first = first.masked_fill(count == 0, 0)
    weight = counted / samples.clamp(min=1)[:, None, None]
    weights = start.new_zeros(*first.shape, max(int(count.max()), 1) if len(start) else 1)
    for position, share in ((low, 1 - fraction), (high, fraction)):
        weights.scatter_add_(2, (position - first[:, :, None]).clamp(0, weights.shape[2] - 1).long(), weight * share)
    return _Axis(first, count, weights)


def _positions(y_axis: _Axis, x_axis: _Axis, image: Tensor, width: int) -> Tuple[Tensor, Tensor, Tensor]:
    """The positions of all bins one after another: rows of the table, where each bin starts, and weights."""
    heights, widths = torch.broadcast_tensors(y_axis.count[:, :, None], x_axis.count[:, None, :])
    counts = (heights * widths).flatten()
    offsets = F.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
    bins = torch.repeat_interleave(counts)
    place = torch.arange(len(bins), dtype=torch.int32, device=counts.device) - offsets[bins]
    columns = widths.flatten()[bins]
    dy = torch.div(place, columns, rounding_mode='floor')
    dx = place - dy * columns
    first = (image[:, None, None] + y_axis.first[:, :, None] * width + x_axis.first[:, None, :]).flatten()
    num_x = x_axis.count.shape[1]
    y_bins = torch.div(bins, num_x, rounding_mode='floor')
    x_bins = torch.div(y_bins, y_axis.count.shape[1], rounding_mode='floor') * num_x + bins % num_x
    weights = y_axis.weights.flatten(0, 1)[y_bins, dy] * x_axis.weights.flatten(0, 1)[x_bins, dx]
    return first[bins] + dy * width + dx, offsets, weights


class DeployedRoIExtractor(SingleRoIExtractor):
    """MMDetection's ``SingleRoIExtractor`` on a CPU with :func:`roi_align`.

    RoIs stay in float32 regardless of the maps: half precision resolves
    coordinates of a thousand pixels to four pixels (bfloat16) or half a pixel
    (float16).

    Args:
        extractor: The extractor; see :meth:`of`.
    """
    #: Whether the maps are given in channels-last format; some heads view theirs as rows, which needs contiguous ones.
    channels_last = False

    def __init__(self, extractor: SingleRoIExtractor) -> None:
        BaseModule.__init__(self)
        self.roi_layers = extractor.roi_layers
        self.out_channels = extractor.out_channels
        self.featmap_strides = extractor.featmap_strides
        self.finest_scale = extractor.finest_scale

    @classmethod
    def of(cls, module: nn.Module) -> Optional['DeployedRoIExtractor']:
        """The equivalent of a module, which may be one for another device; None if there is none, or it is one."""
        known = is_plain_extractor(module) and type(module) is not cls and all(
            type(layer) is RoIAlign and layer.pool_mode == 'avg' for layer in module.roi_layers)
        return cls(module) if known else None

    def forward(self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: Optional[float] = None) -> Tensor:
        """Pool RoIs ``(R, 5)`` from the maps of their level to ``(R, C, *output_size)``, in the dtype of the maps."""
        size = self.roi_layers[0].output_size
        out = feats[0].new_empty(len(rois), *size, self.out_channels)
        levels = self.map_roi_levels(rois, len(feats))
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        for level, (feature_map, layer) in enumerate(zip(feats, self.roi_layers)):
            chosen = (levels == level).nonzero().squeeze(1)
            if len(chosen):
                pooled = roi_align(feature_map, rois[chosen], size, layer.spatial_scale, layer.sampling_ratio,
                                   layer.aligned)
                out[chosen] = pooled.permute(0, 2, 3, 1)
        out[(levels < 0) | (levels >= len(feats))] = 0  # of a RoI that is NaN, as in MMDetection
        return self.arranged(out.permute(0, 3, 1, 2))

    def arranged(self, maps: Tensor) -> Tensor:
        """The pooled maps in the memory format that they are given in."""
        return maps if self.channels_last else maps.contiguous()


def is_plain_extractor(module: nn.Module) -> bool:
    """Whether a module is MMDetection's ``SingleRoIExtractor``, or pools as it does."""
    return type(module) is SingleRoIExtractor or isinstance(module, DeployedRoIExtractor)
