"""The classifiers of Table 3 and other compact networks, from the libraries that provide them."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from mmdet.models.backbones import PyramidVisionTransformer
from mmengine.registry import DefaultScope
from mmpretrain.models import build_classifier
from torch import Tensor, nn

import mmfasternet.models.heads  # noqa: F401, registers the head
from mmfasternet.benchmark.paper import TABLE_3
from mmfasternet.benchmark.subjects.cycle_mlp import CycleMLP
from mmfasternet.benchmark.subjects.timm_networks import PREFIX, build_timm, family_of, image_size
from mmfasternet.errors import ArgumentError

NUM_CLASSES = 1000


@dataclass(frozen=True)
class Network:
    """A classifier.

    Attributes:
        name: Its name, as in Table 3 if it is listed there.
        family: The family of networks that it belongs to.
        build: Builds it with random weights, from images ``(N, 3, H, W)`` to
            logits ``(N, 1000)``.
        size: Height and width of its images in pixels.
        accuracy: Published top-1 accuracy on ImageNet in percent.
        source: Source of the accuracy and kind of training; for networks that
            are neither in Table 3 nor in MMPretrain.
    """
    name: str
    family: str
    build: Callable[[], nn.Module]
    size: int
    accuracy: Optional[float]
    source: str = ''


class PooledClassifier(nn.Module):
    """A backbone, global average pooling, and a linear layer."""

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(channels, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to logits ``(N, 1000)``."""
        return self.fc(self.backbone(images)[-1].mean((2, 3)))


def _mmpretrain(channels: int, pool: bool = True, head: Optional[Dict[str, Any]] = None,
                **backbone: Any) -> Callable[[], nn.Module]:
    """An MMPretrain classifier; ``channels`` is the input of its head."""

    def build() -> nn.Module:
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            return build_classifier(dict(
                type='ImageClassifier',
                backbone=backbone,
                neck=dict(type='GlobalAveragePooling') if pool else None,
                head={**dict(type='LinearClsHead', num_classes=NUM_CLASSES, in_channels=channels), **(head or {})}))

    return build


def _fasternet(arch: str, channels: int, activation: str) -> Callable[[], nn.Module]:
    return _mmpretrain(
        channels, pool=False, head=dict(type='mmfasternet.FasterNetHead', act_cfg=dict(type=activation)),
        type='mmfasternet.FasterNet', arch=arch, out_indices=(3, ), out_norm=False)


def _mobilenet_v3(arch: str, channels: int, hidden: int) -> Callable[[], nn.Module]:
    head = dict(type='StackedLinearClsHead', mid_channels=[hidden], act_cfg=dict(type='HSwish'))
    return _mmpretrain(channels, head=head, type='MobileNetV3', arch=arch)


def _timm(name: str) -> Callable[[], nn.Module]:
    return partial(build_timm, name, num_classes=NUM_CLASSES)


def _pvt(*layers: int) -> Callable[[], nn.Module]:
    return lambda: PooledClassifier(PyramidVisionTransformer(num_layers=list(layers)), 512)


def _cycle_mlp(*layers: int) -> Callable[[], nn.Module]:
    return lambda: CycleMLP(layers, NUM_CLASSES)


def _swin(arch: str, channels: int) -> Callable[[], nn.Module]:
    return _mmpretrain(channels, type='SwinTransformer', arch=arch, img_size=224)


_TABLE_3: Sequence[Tuple[str, str, Callable[[], nn.Module], int]] = (
    ('ShuffleNetV2 1.5x', 'ShuffleNetV2', _mmpretrain(1024, type='ShuffleNetV2', widen_factor=1.5), 224),
    ('MobileNetV2', 'MobileNetV2', _mmpretrain(1280, type='MobileNetV2', widen_factor=1.), 224),
    ('MobileViT-XXS', 'MobileViT', _mmpretrain(320, type='MobileViT', arch='xx_small'), 256),
    ('EdgeNeXt-XXS', 'EdgeNeXt', _mmpretrain(168, pool=False, type='EdgeNeXt', arch='xxsmall'), 256),
    ('FasterNet-T0', 'FasterNet', _fasternet('t0', 320, 'GELU'), 224),
    ('GhostNet 1.3x', 'GhostNet', _timm('ghostnet_130'), 224),
    ('ShuffleNetV2 2x', 'ShuffleNetV2', _mmpretrain(2048, type='ShuffleNetV2', widen_factor=2.), 224),
    ('MobileNetV2 1.4x', 'MobileNetV2', _mmpretrain(1792, type='MobileNetV2', widen_factor=1.4), 224),
    ('MobileViT-XS', 'MobileViT', _mmpretrain(384, type='MobileViT', arch='x_small'), 256),
    ('EdgeNeXt-XS', 'EdgeNeXt', _mmpretrain(192, pool=False, type='EdgeNeXt', arch='xsmall'), 256),
    ('PVT-Tiny', 'PVT', _pvt(2, 2, 2, 2), 224),
    ('FasterNet-T1', 'FasterNet', _fasternet('t1', 512, 'GELU'), 224),
    ('CycleMLP-B1', 'CycleMLP', _cycle_mlp(2, 2, 4, 2), 224),
    ('PoolFormer-S12', 'PoolFormer', _mmpretrain(512, type='PoolFormer', arch='s12'), 224),
    ('MobileViT-S', 'MobileViT', _mmpretrain(640, type='MobileViT', arch='small'), 256),
    ('EdgeNeXt-S', 'EdgeNeXt', _mmpretrain(304, pool=False, type='EdgeNeXt', arch='small'), 256),
    ('ResNet50', 'ResNet', _mmpretrain(2048, type='ResNet', depth=50), 224),
    ('FasterNet-T2', 'FasterNet', _fasternet('t2', 768, 'ReLU'), 224),
    ('CycleMLP-B2', 'CycleMLP', _cycle_mlp(2, 3, 10, 3), 224),
    ('PoolFormer-S24', 'PoolFormer', _mmpretrain(512, type='PoolFormer', arch='s24'), 224),
    ('PoolFormer-S36', 'PoolFormer', _mmpretrain(512, type='PoolFormer', arch='s36'), 224),
    ('ConvNeXt-T', 'ConvNeXt', _mmpretrain(768, pool=False, type='ConvNeXt', arch='tiny'), 224),
    ('Swin-T', 'Swin', _swin('tiny', 768), 224),
    ('PVT-Small', 'PVT', _pvt(3, 4, 6, 3), 224),
    ('PVT-Medium', 'PVT', _pvt(3, 4, 18, 3), 224),
    ('FasterNet-S', 'FasterNet', _fasternet('s', 1024, 'ReLU'), 224),
    ('PoolFormer-M36', 'PoolFormer', _mmpretrain(768, type='PoolFormer', arch='m36'), 224),
    ('ConvNeXt-S', 'ConvNeXt', _mmpretrain(768, pool=False, type='ConvNeXt', arch='small'), 224),
    ('Swin-S', 'Swin', _swin('small', 768), 224),
    ('PVT-Large', 'PVT', _pvt(3, 8, 27, 3), 224),
    ('FasterNet-M', 'FasterNet', _fasternet('m', 1152, 'ReLU'), 224),
    ('PoolFormer-M48', 'PoolFormer', _mmpretrain(768, type='PoolFormer', arch='m48'), 224),
    ('ConvNeXt-B', 'ConvNeXt', _mmpretrain(1024, pool=False, type='ConvNeXt', arch='base'), 224),
    ('Swin-B', 'Swin', _swin('base', 1024), 224),
    ('FasterNet-L', 'FasterNet', _fasternet('l', 1536, 'ReLU'), 224),
)

#: Channels before the head, image size, and accuracy as MMPretrain lists it, of EfficientNet: of plain training, but of
#: AutoAugment for B6 and B7, since it lists no other.
_EFFICIENTNETS = (('b0', 1280, 224, 76.74), ('b1', 1280, 240, 78.68), ('b2', 1408, 260, 79.64),
                  ('b3', 1536, 300, 81.01), ('b4', 1792, 380, 82.57), ('b5', 2048, 456, 83.18),
                  ('b6', 2304, 528, 84.05), ('b7', 2560, 600, 84.38))


def _compact() -> List[Network]:
    """Compact networks that are not in Table 3; accuracies are those of MMPretrain's checkpoints or of their papers."""
    return [
        Network('MobileNetV1', 'MobileNetV1', _timm('mobilenetv1_100'), 224, 70.6),
        Network('ShuffleNetV1', 'ShuffleNetV1', _mmpretrain(960, type='ShuffleNetV1', groups=3), 224, 68.13),
        Network('MobileNetV3-S', 'MobileNetV3', _mobilenet_v3('small', 576, 1024), 224, 66.68),
        Network('MobileNetV3-L', 'MobileNetV3', _mobilenet_v3('large', 960, 1280), 224, 73.49),
        Network('GhostNet', 'GhostNet', _timm('ghostnet_100'), 224, 73.9),
        *(Network(f'EfficientNet-{arch.upper()}', 'EfficientNet', _mmpretrain(channels, type='EfficientNet', arch=arch),
                  size, accuracy) for arch, channels, size, accuracy in _EFFICIENTNETS)
    ]


#: Networks of timm's that are not in Table 3: name, family, name in timm, image size, the accuracy that their authors
#: give at that size, and its source; "plain" is without distillation and with no data but ImageNet-1k.
_NEWER = (
    ('ResNet-18', 'ResNet', 'resnet18', 224, 72.12,
     'Deep Residual Learning for Image Recognition, Table 2: error 27.88 over ten crops, plain; none of one crop'),
    ('StarNet-S4', 'StarNet', 'starnet_s4', 224, 78.4, 'Rewrite the Stars, Table 6: plain, 300 epochs'),
    ('RepViT-M1.1', 'RepViT', 'repvit_m1_1', 224, 80.7,
     'github.com/THU-MIG/RepViT, README, Classification on ImageNet-1K: distilled, 300 epochs'),
    ('FastViT-SA12', 'FastViT', 'fastvit_sa12', 256, 80.9,
     'github.com/apple/ml-fastvit, README, Models trained on ImageNet-1K: plain'),
    ('MobileNetV4-Conv-M', 'MobileNetV4', 'mobilenetv4_conv_medium', 256, 79.9,
     'MobileNetV4: Universal Models for the Mobile Ecosystem, Table 6: plain, 500 epochs'),
    ('HGNetV2-B4', 'HGNetV2', 'hgnetv2_b4', 224, 83.57,
     'github.com/PaddlePaddle/PaddleClas, PP-HGNetV2.md, 1.3: distilled (SSLD), also from ImageNet-22k'),
    ('EfficientViT-B1', 'EfficientViT', 'efficientvit_b1', 224, 79.39,
     'github.com/mit-han-lab/efficientvit, applications/cls.md, B series: plain, 320 epochs'),
    ('ConvNeXtV2-Nano', 'ConvNeXtV2', 'convnextv2_nano', 224, 81.9,
     'github.com/facebookresearch/ConvNeXt-V2, README, ImageNet-1K fine-tuned models: plain, FCMAE first'),
)

#: All networks by name; first those of Table 3, in its order.
NETWORKS: Dict[str, Network] = {
    network.name: network
    for network in (*(Network(name, family, build, size, TABLE_3[name].accuracy)
                      for name, family, build, size in _TABLE_3), *_compact(),
                    *(Network(name, family, _timm(timm_name), size, accuracy, source)
                      for name, family, timm_name, size, accuracy, source in _NEWER))
}


def find_network(name: str) -> Network:
    """A network by name: one of :data:`NETWORKS`, or ``timm:NAME`` for any timm network.

    A timm network has the image size of timm's config, and no accuracy unless
    it is also one of :data:`NETWORKS`.

    Raises:
        ArgumentError: If there is no network of that name.
        UserError: If timm is not installed, lists no such network, or the
            network's images are not square.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    if not name.startswith(PREFIX):
        raise ArgumentError(f"there is no network '{name}': it must be one of {', '.join(NETWORKS)}, or {PREFIX}NAME")
    timm_name = name.removeprefix(PREFIX)
    size = image_size(timm_name)
    for network in NETWORKS.values():
        if isinstance(network.build, partial) and network.build.args == (timm_name, ):
            return replace(network, name=name)
    return Network(name, family_of(timm_name), _timm(timm_name), size, None)
