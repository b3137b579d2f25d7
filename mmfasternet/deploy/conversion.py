"""Converts a trained model to its fastest form for inference."""

import copy
import functools
import time
from collections import Counter
from typing import Any, Callable, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmfasternet.compat import forward_hooks, remove_forward_hooks, tree_map_only
from mmfasternet.deploy.compiling import check_compilable, compile_networks, remove_compilation
from mmfasternet.deploy.dense import each_module
from mmfasternet.deploy.deployed_block import DeployedBlock, check_algorithm
from mmfasternet.deploy.folding import fold_norms, fold_output_norms
from mmfasternet.deploy.gpu.graphed_detector import record_detector, remove_recordings
from mmfasternet.deploy.gpu.triton_kernels import TritonRoIExtractor, available
from mmfasternet.deploy.replacing import replace_modules
from mmfasternet.deploy.roi_align import DeployedRoIExtractor
from mmfasternet.deploy.tf32 import tf32
from mmfasternet.errors import ArgumentError
from mmfasternet.models.backbones.fasternet import FasterNetStage
from mmfasternet.models.layers import FasterNetBlock

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def to_deploy(model: nn.Module,
              inplace: bool = False,
              algorithm: str = 'auto',
              dtype: torch.dtype = torch.float32,
              memory_format: torch.memory_format = torch.channels_last,
              compile: bool = False,
              sizes: Sequence[Tuple[int, int]] = (),
              graphs: bool = False) -> nn.Module:
    """Convert a model to its inference form: the same outputs, up to rounding, in less time.

    - Batch norms are folded into the convolutions before them, FasterNet's output norms into the lateral convolutions
      of a following FPN.
    - FasterNet's blocks are computed without ``cat`` and ``clone``, and add
      their residual in place; see :class:`DeployedBlock`.
    - On a CPU, RoIAlign is a weighted sum over channels-last maps; see
      :func:`mmfasternet.deploy.roi_align.roi_align`. On a GPU with Triton it
      is one kernel for all levels; see
      :func:`mmfasternet.deploy.gpu.triton_kernels.roi_align_levels`.
    - Weights and maps take the given type and memory format; scores, boxes
      and masks come out in float32, and RoIs stay in it. A bare backbone returns its maps in ``dtype``.

    The result is for inference only: in eval mode, without gradients, and hooks on FasterNet's layers may see a map
    that the next block has overwritten. Applied to its own result, it changes only algorithm, type and memory format.

    Args:
        model: A backbone, a classifier of MMPretrain or a detector of
            MMDetection, with FasterNet or another backbone; on the device it
            will run on.
        inplace: Change the model itself instead of a copy. Defaults to False.
        algorithm: Algorithm of the blocks, ``'matmul'``, ``'linear'``, ``'conv'`` or
            ``'gemm'``.
            Defaults to ``'auto'``, the fastest: see :func:`fastest_algorithm`.
        dtype: float32, bfloat16 or float16. Defaults to float32.
        memory_format: ``torch.channels_last`` or ``torch.contiguous_format``.
            Defaults to ``torch.channels_last``.
        compile: Compile the networks with ``torch.compile``; see
            :func:`mmfasternet.deploy.compiling.compile_networks`.
            Defaults to False.
        sizes: Heights and widths to compile or record for, and to pad images
            to. Defaults to none, any size.
        graphs: On a GPU, replay the networks as CUDA graphs, or a two-stage detector as a whole; the next call
            overwrites the maps of a bare backbone, and the model must not be moved afterwards. See
            :func:`mmfasternet.deploy.gpu.graphed_detector.record_detector`. Defaults to False.

    Returns:
        The model in its inference form.

    Raises:
        ArgumentError: If algorithm, dtype or memory format is none of the above,
            the model has no known networks to cast, compile or record, or graphs are requested without a GPU.
        UserError: If there is no C++ compiler, which compiling for a CPU needs.

    Example:
        >>> import torch
        >>> from mmfasternet.deploy import to_deploy
        >>> from mmfasternet.models import FasterNet
        >>> backbone = to_deploy(FasterNet('t0'))
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 64, 64))]
        [(1, 40, 16, 16), (1, 80, 8, 8), (1, 160, 4, 4), (1, 320, 2, 2)]
    """
    if dtype not in DTYPES:
        raise ArgumentError(f'dtype must be one of {DTYPES}, got {dtype}')
    if memory_format not in (torch.channels_last, torch.contiguous_format):
        raise ArgumentError('memory_format must be torch.channels_last or torch.contiguous_format, '
                            f'got {memory_format}')
    if algorithm != 'auto':
        check_algorithm(algorithm)
    if sizes and not (compile or graphs):
        raise ArgumentError('sizes needs compile=True or graphs=True')
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    if graphs and device.type != 'cuda':
        raise ArgumentError('graphs=True needs a model on a GPU')
    if dtype != torch.float32:
        _check_castable(model, dtype)
    if compile or graphs:
        check_compilable(model, sizes)
    model = model if inplace else copy.deepcopy(model)
    remove_compilation(model)
    remove_recordings(model)
    set_eval_mode(model)
    model.requires_grad_(False)
    if algorithm == 'auto':
        algorithm = compiled_algorithm(device, dtype) if compile else fastest_algorithm(device, dtype)
    _fold_output_norms(model)
    fold_norms(model)
    _replace_blocks(model, algorithm)
    if device.type == 'cpu':
        replace_modules(model, DeployedRoIExtractor.of)
    elif available(device):
        replace_modules(model, TritonRoIExtractor.of)
    _pool_in_channels_last(model)
    _cast(model, dtype, memory_format)
    set_eval_mode(model)  # the new layers
    if compile:
        compile_networks(model, sizes)
    if graphs:
        record_detector(model, sizes)
    return model


def set_eval_mode(model: nn.Module) -> None:
    """Set every module to eval mode, in place: ``eval()`` of some backbones keeps parts in training mode."""
    for module in model.modules():
        module.training = False


def compiled_algorithm(device: torch.device, dtype: torch.dtype) -> str:
    """The algorithm of :class:`DeployedBlock` that is fastest under ``torch.compile``: ``'linear'``, or ``'conv'``.

    It is ``'conv'`` for float32 on a GPU if convolutions may round to TF32 and
    matrix products may not, as by PyTorch's defaults.
    """
    return 'conv' if _convolutions_have_more(device, dtype) else 'linear'


def _convolutions_have_more(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether only convolutions may use a GPU's tensor cores (TF32)."""
    return device.type == 'cuda' and dtype == torch.float32 and tf32() == (True, False)


def fastest_algorithm(device: torch.device, dtype: torch.dtype) -> str:
    """The fastest algorithm of :class:`DeployedBlock` on a device in eager mode.

    For compiled models see :func:`compiled_algorithm`.

    On a CPU it is ``'matmul'``, unless matrix products are much slower than
    convolutions, as with MKL's float32 on processors from other makers than
    Intel: both are timed on one pointwise convolution of FasterNet-S. On a GPU
    it is ``'gemm'``, except for float32 if convolutions may round to TF32 and
    matrix products may not, as by PyTorch's defaults: then it is ``'conv'``.
    """
    if device.type != 'cpu':
        return 'conv' if _convolutions_have_more(device, dtype) else 'gemm'
    return _fastest_on_cpu(dtype)


@functools.cache
def _fastest_on_cpu(dtype: torch.dtype) -> str:
    weight = torch.rand(512, 256, 1, 1, dtype=dtype)
    maps = torch.rand(1, 256, 28, 28, dtype=dtype).contiguous(memory_format=torch.channels_last)
    rows = maps.permute(0, 2, 3, 1).reshape(-1, 256)
    matrix = weight.flatten(1).t()
    weight = weight.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        return 'matmul' if _seconds(lambda: rows @ matrix) < 1.5 * _seconds(lambda: F.conv2d(maps, weight)) else 'conv'


def _seconds(function: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _fold_output_norms(model: nn.Module) -> None:
    """Fold the output norms of every detector in which only the neck reads the backbone's maps."""
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for module in list(model.modules()):
        reads = getattr(type(module), 'extract_feat', None)
        if reads in (SingleStageDetector.extract_feat, TwoStageDetector.extract_feat) and module.with_neck:
            if uses[id(module.backbone)] == uses[id(module.neck)] == 1:
                fold_output_norms(module.backbone, module.neck)


def _replace_blocks(model: nn.Module, algorithm: str) -> None:
    # Subclasses may behave differently.
    replace_modules(model, lambda module: DeployedBlock(module, algorithm) if type(module) is FasterNetBlock else None)
    for module in model.modules():
        if isinstance(module, DeployedBlock):
            module.algorithm, module.owns_input = algorithm, False
    for module in model.modules():
        if type(module) is FasterNetStage:
            for block in module.blocks:
                block.owns_input = True  # made by the previous layer, and read by nothing else


def _pool_in_channels_last(model: nn.Module) -> None:
    """Leave the maps of mask heads that are convolutions as they are pooled; box heads turn theirs into rows."""
    for module in model.modules():
        masks, boxes = (getattr(module, f'{kind}_roi_extractor', None) for kind in ('mask', 'bbox'))
        heads = each_module(getattr(module, 'mask_head', None))
        for extractor in each_module(masks) if masks is not boxes else ():
            if isinstance(extractor, DeployedRoIExtractor):
                extractor.channels_last = all(type(head) is FCNMaskHead for head in heads)


def _cast(model: nn.Module, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    """Set type and memory format of weights and inputs, and the type of what goes to post-processing."""
    for part in _parts(model) or [model]:
        part.to(dtype=dtype, memory_format=memory_format)
    entry = getattr(model, 'backbone', model)
    _replace_hook(entry, entry.register_forward_pre_hook, _InputCast(dtype, memory_format))
    for head in _heads(model):
        _replace_hook(head, head.register_forward_hook, _Float32Output())
    for module in model.modules():
        if isinstance(module, BaseRoIExtractor) and not isinstance(module, DeployedRoIExtractor):
            _replace_hook(module, module.register_forward_pre_hook, _Float32Maps())
            _replace_hook(module, module.register_forward_hook, _OutputCast(dtype))
    feed_mmcv_contiguous(model)


def computes_in(model: nn.Module) -> torch.dtype:
    """The type that an inference form casts its images to; float32 for other models."""
    hooks = forward_hooks(getattr(model, 'backbone', model))
    return next((hook.dtype for hook in hooks if isinstance(hook, _InputCast)), torch.float32)


def feed_mmcv_contiguous(model: nn.Module) -> None:
    """Make mmcv's own operators get contiguous maps, in place: they ignore strides."""
    for module in model.modules():
        if any(base.__module__.startswith('mmcv.ops.') for base in type(module).__mro__):
            module.to(memory_format=torch.contiguous_format)
            _replace_hook(module, module.register_forward_pre_hook, _ContiguousInputs())


def _check_castable(model: nn.Module, dtype: torch.dtype) -> None:
    """Refuse a model whose parts interact in unknown ways."""
    if not isinstance(model, BaseModel):
        return
    known = {id(p) for part in _parts(model) for p in part.parameters()}
    if (not _heads(model) or any(id(p) not in known for p in model.parameters())
            or isinstance(model, TwoStageDetector) and type(model.roi_head) not in (StandardRoIHead, CascadeRoIHead)):
        raise ArgumentError(f'{dtype} is for backbones, classifiers, single-stage detectors, and two-stage ones with a '
                            'StandardRoIHead or CascadeRoIHead and no other branch, not for this '
                            f'{type(model).__name__}: keep float32')
    for module in model.modules():
        if (isinstance(module, BaseRoIExtractor) and any(True for _ in module.parameters())
                or isinstance(module, BaseDenseHead) and module not in _heads(model)
                or dtype == torch.bfloat16 and type(module).__module__.startswith('mmcv.ops.')
                and any(True for _ in module.parameters(recurse=False))):
            raise ArgumentError(f'{type(module).__name__} does not compute in {dtype}: keep float32')


class _ContiguousInputs:
    """Makes maps contiguous, as mmcv's own operators read them regardless of strides."""

    def __call__(self, module: nn.Module, inputs: Tuple[Any, ...]) -> Tuple[Any, ...]:
        return tree_map_only(Tensor, Tensor.contiguous, inputs)


class _Float32Maps:
    """Casts maps and RoIs to float32 before an extractor that would round RoIs to the type of the maps."""

    def __call__(self, module: nn.Module, inputs: Tuple[Any, ...]) -> Tuple[Any, ...]:
        return tree_map_only(Tensor, Tensor.float, inputs)


class _OutputCast:
    """Casts the output of a module to a type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
        return outputs.to(self.dtype)


class _InputCast:
    """Casts the images that a module gets to a type and a memory format."""

    def __init__(self, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
        self.dtype = dtype
        self.channels_last = memory_format == torch.channels_last  # torch.save can't take a memory format

    def __call__(self, module: nn.Module, inputs: Tuple[Tensor, ...]) -> Tuple[Tensor, ...]:
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        return tuple(x.to(dtype=self.dtype, memory_format=memory_format) if isinstance(x, Tensor) else x
                     for x in inputs)


class _Float32Output:
    """Casts a head's outputs for post-processing to float32."""

    def __call__(self, module: nn.Module, inputs: Any, outputs: Any) -> Any:
        return tree_map_only(Tensor, Tensor.float, outputs)


def _replace_hook(module: nn.Module, register: Callable, hook: Callable) -> None:
    """Register a hook of a module, replacing an earlier hook of the same class."""
    remove_forward_hooks(module, type(hook))
    register(hook)


def _parts(model: nn.Module) -> List[nn.Module]:
    """The parts of a model that hold its weights; empty for a bare backbone."""
    if not isinstance(model, BaseModel):
        return []
    return [part for name in ('backbone', 'neck', 'rpn_head', 'roi_head', 'bbox_head', 'head')
            if isinstance(part := getattr(model, name, None), nn.Module)]


def _heads(model: nn.Module) -> List[nn.Module]:
    """The heads whose output goes to post-processing; empty for an unknown model."""
    if isinstance(model, TwoStageDetector):
        of_rois = [getattr(model.roi_head, name, None) for name in ('bbox_head', 'mask_head')]
        heads = [getattr(model, 'rpn_head', None)]
        for head in of_rois:
            heads.extend(head if isinstance(head, nn.ModuleList) else [head])  # a cascade has several
    elif isinstance(model, SingleStageDetector):
        heads = [getattr(model, 'bbox_head', None)]
    else:
        heads = [getattr(model, 'head', None)]  # a classifier's head
    return [head for head in heads if head is not None]
