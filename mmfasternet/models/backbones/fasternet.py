"""FasterNet, the backbone."""

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from mmengine.model import BaseModule, PretrainedInit, initialize
from torch import Tensor, nn

from mmfasternet.compat import BatchNorm
from mmfasternet.errors import ArgumentError
from mmfasternet.models.layers import FasterNetBlock, PatchConv, build_norm
from mmfasternet.models.weights.layouts import rename_for
from mmfasternet.registry import MODELS, WEIGHT_INITIALIZERS

Config = Dict[str, Any]

_GELU = dict(type='GELU')
_RELU = dict(type='ReLU', inplace=True)


class FasterNetStage(nn.Module):
    """A downsampling :class:`PatchConv` and the blocks after it.

    Args:
        downsample: The embedding or merging layer.
        blocks: The :class:`FasterNetBlock` s at the stage's resolution.
    """

    def __init__(self, downsample: PatchConv, blocks: Sequence[FasterNetBlock]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C_in, H, W)`` to ``(N, C, H // p, W // p)`` with patch size ``p``."""
        return self.blocks(self.downsample(x))


@MODELS.register_module()
class FasterNet(BaseModule):
    r"""FasterNet, a backbone built on partial convolution.

    Source: `Run, Don't Walk: Chasing Higher FLOPS for Faster Neural Networks
    <https://arxiv.org/abs/2303.03667>`_, section 3.4, Fig. 4 and Table 8.

    =====  ===================  =============  ==========
    arch   channels             blocks         activation
    =====  ===================  =============  ==========
    t0     40, 80, 160, 320     1, 2, 8, 2     GELU
    t1     64, 128, 256, 512    1, 2, 8, 2     GELU
    t2     96, 192, 384, 768    1, 2, 8, 2     ReLU
    s      128, 256, 512, 1024  1, 2, 13, 2    ReLU
    m      144, 288, 576, 1152  3, 4, 18, 3    ReLU
    l      192, 384, 768, 1536  3, 4, 18, 3    ReLU
    =====  ===================  =============  ==========

    ``load_state_dict``, also of a model that contains it, accepts the authors'
    and timm's names of weights as well as ours.

    Args:
        arch: One of the names above, or a dict with ``embed_channels`` (of
            the first stage; they double from stage to stage), ``depths``
            (blocks of each stage) and optionally ``act_cfg``.
            Defaults to ``'t0'``.
        in_channels: Number of image channels. Defaults to 3.
        out_indices: Stages whose maps are returned, in increasing order;
            negative ones count from the last. Stages after the last of them
            are not built. Defaults to ``(0, 1, 2, 3)``.
        out_norm: Put a norm layer on each output, as the published detectors
            do; a classifier has none. Defaults to True.
        partial_ratio: Share of the channels that a partial convolution
            convolves. Defaults to 1/4.
        mlp_ratio: Expansion of the pointwise convolutions. Defaults to 2.
        drop_path_rate: Stochastic depth of the last block; it grows linearly
            from 0 over all blocks. Defaults to 0.
        layer_scale_init_value: Initial value of a learnt scale of each
            block's branch; None for no scale. Defaults to None.
        norm_cfg: Norm layers: ``'BN'``, ``'SyncBN'``, ``'LN2d'`` or any other
            type for maps ``(N, C, H, W)`` that mmcv builds. Defaults to
            ``dict(type='BN')``.
        act_cfg: Activation layers. Defaults to None: those of the arch.
        pconv_mode: Mode of :class:`~mmfasternet.models.PartialConv`.
            Defaults to ``'split_cat'``.
        frozen_stages: -1 freezes nothing, 0 the patch embedding, ``n`` also
            the first ``n`` stages with their output norms: parameters are
            fixed and batch statistics are not updated. Defaults to -1.
        norm_eval: Keep the batch norm layers in eval mode while training.
            Defaults to False.
        with_cp: Recompute the blocks in the backward pass to save memory.
            Defaults to False.
        init_cfg: Initialisation. Defaults to None, which draws convolution
            weights from a normal distribution of standard deviation 0.02.

    Raises:
        ValueError: If an argument is out of its range; the message names it.

    Example:
        >>> import torch
        >>> from mmfasternet.models import FasterNet
        >>> backbone = FasterNet('t0').eval()
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 64, 64))]
        [(1, 40, 16, 16), (1, 80, 8, 8), (1, 160, 4, 4), (1, 320, 2, 2)]
    """

    arch_settings: Dict[str, Config] = {
        't0': dict(embed_channels=40, depths=(1, 2, 8, 2), act_cfg=_GELU),
        't1': dict(embed_channels=64, depths=(1, 2, 8, 2), act_cfg=_GELU),
        't2': dict(embed_channels=96, depths=(1, 2, 8, 2), act_cfg=_RELU),
        's': dict(embed_channels=128, depths=(1, 2, 13, 2), act_cfg=_RELU),
        'm': dict(embed_channels=144, depths=(3, 4, 18, 3), act_cfg=_RELU),
        'l': dict(embed_channels=192, depths=(3, 4, 18, 3), act_cfg=_RELU),
    }

    def __init__(self,
                 arch: Union[str, Mapping[str, Any]] = 't0',
                 in_channels: int = 3,
                 out_indices: Sequence[int] = (0, 1, 2, 3),
                 out_norm: bool = True,
                 partial_ratio: float = 1 / 4,
                 mlp_ratio: float = 2.,
                 drop_path_rate: float = 0.,
                 layer_scale_init_value: Optional[float] = None,
                 norm_cfg: Config = dict(type='BN'),
                 act_cfg: Optional[Config] = None,
                 pconv_mode: str = 'split_cat',
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 init_cfg: Union[Config, List[Config], None] = None) -> None:
        super().__init__(init_cfg or [
            dict(type='TruncNormal', layer='Conv2d', std=0.02, bias=0.),
            dict(type='Constant', layer=[BatchNorm.__name__, 'GroupNorm', 'LayerNorm'], val=1., bias=0.),
        ])
        settings = self._arch_settings(arch)
        depths = tuple(settings['depths'])
        act_cfg = act_cfg or settings.get('act_cfg', _RELU)
        if in_channels < 1:
            raise ArgumentError(f'in_channels must be positive, got {in_channels}')
        if not 0 <= drop_path_rate < 1:
            raise ArgumentError(f'drop_path_rate must lie in [0, 1), got {drop_path_rate}')
        if not -1 <= frozen_stages <= len(depths):
            raise ArgumentError(f'frozen_stages must lie in [-1, {len(depths)}], got {frozen_stages}')

        self.num_stages = len(depths)
        self.out_indices = self._stage_indices(out_indices)
        self.out_norm = out_norm
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        #: Channels of every stage's map, whether it is returned or not.
        self.stage_channels = tuple(settings['embed_channels'] * 2**i for i in range(self.num_stages))

        rates = iter(torch.linspace(0, drop_path_rate, sum(depths)).tolist())
        previous = in_channels
        self.stages = nn.ModuleList()
        # Stages behind the last output would be parameters without a gradient.
        for index in range(self.out_indices[-1] + 1):
            channels, depth = self.stage_channels[index], depths[index]
            downsample = PatchConv(previous, channels, patch_size=4 if index == 0 else 2, norm_cfg=norm_cfg)
            blocks = [
                FasterNetBlock(
                    channels,
                    norm_cfg,
                    act_cfg,
                    mlp_ratio=mlp_ratio,
                    partial_ratio=partial_ratio,
                    pconv_mode=pconv_mode,
                    drop_path_rate=next(rates),
                    layer_scale_init_value=layer_scale_init_value,
                    with_cp=with_cp) for _ in range(depth)
            ]
            self.stages.append(FasterNetStage(downsample, blocks))
            previous = channels
        if out_norm:
            for index in self.out_indices:
                self.add_module(f'norm{index}', build_norm(norm_cfg, self.stage_channels[index]))
        self._freeze()
        self.register_load_state_dict_pre_hook(_rename_weights)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x: Images of shape ``(N, in_channels, H, W)``.

        Returns:
            One map for each of ``out_indices``; that of stage ``i`` has shape
            ``(N, stage_channels[i], H // 2**(i + 2), W // 2**(i + 2))``.
        """
        outs = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                outs.append(getattr(self, f'norm{index}')(x) if self.out_norm else x)
        return tuple(outs)

    def init_weights(self) -> None:
        """Initialise from ``init_cfg``; type ``'Pretrained'`` accepts the published ImageNet weights in any layout."""
        configs = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg]
        pretrained = [config for config in configs if _is_pretrained(config)]
        if not pretrained:
            super().init_weights()
            return
        if len(configs) > len(pretrained):
            initialize(self, [config for config in configs if not _is_pretrained(config)])
        for config in pretrained:
            if not config.get('checkpoint'):
                raise ArgumentError("init_cfg of type 'Pretrained' needs checkpoint, a path or URL")
            # By its name in the registry: models do not depend on files and downloads.
            initialize(self, dict(config, type='mmfasternet.PretrainedFasterNet'))

    def train(self, mode: bool = True) -> 'FasterNet':
        """Set the mode, except for frozen stages and, with ``norm_eval``, batch norm; returns ``self``."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, BatchNorm):
                    module.eval()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Get the group of a parameter for a layer-wise learning-rate decay.

        Group 0 is the patch embedding, followed by one group for each block; a
        merging layer is in the group of the next block, an output norm in that
        of the last block of its stage. The last group is everything after the
        backbone: neck and heads. T0 has 15 groups.

        Args:
            param_name: Name of a parameter, in the backbone or in the model
                that contains it.
            prefix: Prefix of the backbone's parameters in that model. Defaults
                to ``''``.

        Returns:
            The group and the number of groups, as in MMPretrain's backbones.
        """
        depths = [len(stage.blocks) for stage in self.stages]
        num_groups = sum(depths) + 2
        module, *path = param_name[len(prefix):].split('.')
        if not param_name.startswith(prefix) or not hasattr(self, module):
            return num_groups - 1, num_groups
        if module != 'stages':
            return sum(depths[:int(module.removeprefix('norm')) + 1]), num_groups
        stage, part = int(path[0]), path[1]
        if part == 'downsample':
            return sum(depths[:stage]) + (stage > 0), num_groups
        return sum(depths[:stage]) + int(path[2]) + 1, num_groups

    def _checkpoint_filter(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        """Called by MMPretrain's ``ImageClassifier`` before it loads weights."""
        rename_for('classifier', state_dict, prefix)

    def _freeze(self) -> None:
        frozen: List[nn.Module] = []
        if self.frozen_stages >= 0:
            frozen.append(self.stages[0].downsample)
        for index in range(min(self.frozen_stages, len(self.stages))):
            frozen.append(self.stages[index])
            if self.out_norm and index in self.out_indices:
                frozen.append(getattr(self, f'norm{index}'))
        for module in frozen:
            module.eval()
            module.requires_grad_(False)

    def _stage_indices(self, out_indices: Sequence[int]) -> Tuple[int, ...]:
        if isinstance(out_indices, int):
            out_indices = (out_indices, )
        indices = tuple(i + self.num_stages if i < 0 else i for i in out_indices)
        valid = bool(indices) and indices[0] >= 0 and indices[-1] < self.num_stages
        if not valid or list(indices) != sorted(set(indices)):
            raise ArgumentError(f'out_indices must be increasing and name some of the {self.num_stages} stages, '
                             f'got {tuple(out_indices)}')
        return indices

    @classmethod
    def _arch_settings(cls, arch: Union[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        if isinstance(arch, str):
            if arch.lower() not in cls.arch_settings:
                raise ArgumentError(f'arch must be one of {list(cls.arch_settings)} or a dict, got {arch!r}')
            return cls.arch_settings[arch.lower()]
        required, allowed = {'embed_channels', 'depths'}, {'embed_channels', 'depths', 'act_cfg'}
        missing, unknown = sorted(required - set(arch)), sorted(set(arch) - allowed)
        if missing or unknown:
            raise ArgumentError(f'arch as a dict takes embed_channels, depths and optionally act_cfg; '
                             f'missing: {missing}, unknown: {unknown}')
        if not arch['depths'] or min(arch['depths']) < 1:
            raise ArgumentError(f'arch: depths must be positive, one for each stage, got {arch["depths"]}')
        return arch


def _is_pretrained(config: Config) -> bool:
    kind = config['type']
    return (WEIGHT_INITIALIZERS.get(kind) if isinstance(kind, str) else kind) is PretrainedInit


def _rename_weights(backbone: nn.Module, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
    rename_for('backbone', state_dict, prefix)
