"""Folds batch norms into the convolutions before them, and into 1x1 convolutions after them.

The pairs are listed for each kind of module, according to its ``forward``: the order in which a module registers its
layers does not tell the order in which it calls them.
"""

import copy
from typing import Any, Iterator, Optional, Tuple

import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks.conv2d_adaptive_padding import Conv2dAdaptivePadding
from mmcv.cnn.bricks.wrappers import Conv2d
from mmdet.models.necks import FPN, PAFPN
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mmfasternet.compat import BatchNorm, forward_hooks
from mmfasternet.deploy.replacing import children
from mmfasternet.models import FasterNet
from mmfasternet.models.layers import PatchConv

# Other subclasses may standardise their weights or shift their samples.
_PLAIN_CONVS = (nn.Conv2d, Conv2d, Conv2dAdaptivePadding)


def fold_norms(model: nn.Module) -> None:
    """Fold every batch norm that directly follows a convolution into it, in place.

    It knows :class:`~mmfasternet.models.FasterNet`'s layers, mmcv's
    ``ConvModule``, neighbours in an ``nn.Sequential``, and residual networks
    as MMDetection and MMPretrain write them (``conv1`` and ``norm1``, ...).
    Norms without fixed statistics and other kinds of norms are not changed.

    Args:
        model: A model in eval mode.
    """
    for module in list(model.modules()):
        for conv_name, norm_name in _conv_norm_names(module):
            conv: Any = getattr(module, conv_name, None)
            norm: Any = getattr(module, norm_name, None)
            if _is_plain(conv) and is_fixed(norm):
                weights = folded_behind(conv, norm)
                conv = copy.deepcopy(conv)  # heads share convolutions between levels with different norms
                conv.weight, conv.bias = weights
                setattr(module, conv_name, conv)
                setattr(module, norm_name, nn.Identity())
                if isinstance(module, ConvModule):
                    module.with_norm = False


def fold_output_norms(backbone: nn.Module, neck: Any) -> None:
    """Fold FasterNet's output norms into the lateral 1x1 convolutions of an FPN, in place.

    It is exact, because these convolutions have no padding. A norm is kept if
    its output is also used elsewhere: by the 3x3 convolution of an extra level
    (``add_extra_convs='on_input'``), which pads the norm's output.

    Args:
        backbone: Any backbone; only FasterNet has such norms.
        neck: Any neck; only FPN and PAFPN are known to read each map with such
            a convolution and nothing else.
    """
    if not isinstance(backbone, FasterNet) or not backbone.out_norm or type(neck) not in (FPN, PAFPN):
        return
    shared = neck.backbone_end_level - 1 if neck.add_extra_convs == 'on_input' else None
    for level, lateral in enumerate(neck.lateral_convs, start=neck.start_level):
        name = f'norm{backbone.out_indices[level]}'
        norm, conv = getattr(backbone, name), lateral.conv
        if (level != shared and is_fixed(norm) and _is_plain(conv) and lateral.order[0] == 'conv'
                and conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.groups == 1):
            conv.weight, conv.bias = folded_before(conv, norm)
            setattr(backbone, name, nn.Identity())


def folded_behind(conv: nn.Conv2d, norm: BatchNorm) -> Tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of the one convolution that equals ``norm(conv(x))``; computed in float64."""
    weight, bias = fuse_conv_bn_weights(
        conv.weight.double(), _double(conv.bias), norm.running_mean.double(), norm.running_var.double(), norm.eps,
        _double(norm.weight), _double(norm.bias))
    return _parameter(weight, conv.weight), _parameter(bias, conv.weight)


def folded_before(conv: nn.Conv2d, norm: BatchNorm) -> Tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of the one 1x1 convolution that equals ``conv(norm(x))``; computed in float64."""
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    weight = conv.weight.double()
    bias = torch.einsum('oihw,i->o', weight, shift)
    if conv.bias is not None:
        bias = bias + conv.bias.double()
    return _parameter(weight * scale[None, :, None, None], conv.weight), _parameter(bias, conv.weight)


def _conv_norm_names(module: nn.Module) -> Iterator[Tuple[str, str]]:
    """Names of the convolutions of this module and of the norms that it applies only to their output."""
    forward = type(module).forward  # a subclass may do more
    if forward is ConvModule.forward:
        place = module.order.index('conv')
        if module.with_norm and module.order[place + 1:place + 2] == ('norm', ):
            yield 'conv', module.norm_name
    elif forward is PatchConv.forward:
        yield 'conv', 'norm'
    elif forward is nn.Sequential.forward:
        names = list(children(module))
        yield from zip(names, names[1:])
    elif not isinstance(module, (ConvModule, PatchConv)):
        for index in ('1', '2', '3'):
            if hasattr(module, f'norm{index}_name'):
                yield f'conv{index}', getattr(module, f'norm{index}_name')


def _is_plain(conv: Any) -> bool:
    """Whether a module computes only a convolution with its weight: hooks may change that."""
    return type(conv) in _PLAIN_CONVS and not forward_hooks(conv)


def is_fixed(norm: Any) -> bool:
    """Whether the norm is a batch norm that applies its running statistics, and nothing more."""
    return (applies_statistics(norm) and not forward_hooks(norm)
            and type(norm).forward in (BatchNorm.forward, nn.SyncBatchNorm.forward))


def applies_statistics(norm: Any) -> bool:
    """Whether the norm is a batch norm that applies its running statistics; timm's also have an activation."""
    return isinstance(norm, BatchNorm) and norm.running_mean is not None and not norm.training


def _double(tensor: Optional[Tensor]) -> Optional[Tensor]:
    return None if tensor is None else tensor.double()


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().to(like.dtype), requires_grad=False)
