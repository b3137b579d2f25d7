"""The paper's measurements (FasterNet, CVPR 2023), for comparison with ours."""

from dataclasses import dataclass
from typing import Dict, Tuple


@dataclass(frozen=True)
class DetectorRow:
    """A Mask R-CNN of Table 4; the GPU is a 2080 Ti.

    Attributes:
        config: Its config in this project, below ``configs/``.
        parameters: Millions of trainable parameters.
        flops: 10^9 FLOPs at 1280 x 800 pixels, as the table counts them.
        latency: Milliseconds on a GPU.
    """
    config: str
    parameters: float
    flops: float
    latency: float


#: Table 4, by the stem of the config.
TABLE_4: Dict[str, DetectorRow] = {
    row.config.rpartition('/')[2].removesuffix('.py'): row
    for row in (
        DetectorRow('comparison/mask_rcnn_resnet50_1x_coco.py', 44.2, 253, 54.9),
        DetectorRow('comparison/mask_rcnn_poolformer-s24_1x_coco.py', 41.0, 233, 111.0),
        DetectorRow('comparison/mask_rcnn_pvt-small_1x_coco.py', 44.1, 238, 89.5),
        DetectorRow('mask_rcnn_fasternet_s_1x_coco.py', 49.0, 258, 35.1),
        DetectorRow('comparison/mask_rcnn_resnet101_1x_coco.py', 63.2, 329, 68.9),
        DetectorRow('comparison/mask_rcnn_resnext101-32x4d_1x_coco.py', 62.8, 333, 80.5),
        DetectorRow('comparison/mask_rcnn_poolformer-s36_1x_coco.py', 50.5, 266, 146.9),
        DetectorRow('comparison/mask_rcnn_pvt-medium_1x_coco.py', 63.9, 295, 117.3),
        DetectorRow('mask_rcnn_fasternet_m_1x_coco.py', 71.2, 344, 53.7),
        DetectorRow('comparison/mask_rcnn_resnext101-64x4d_1x_coco.py', 101.9, 487, 112.9),
        DetectorRow('comparison/mask_rcnn_pvt-large_1x_coco.py', 81.0, 358, 152.2),
        DetectorRow('mask_rcnn_fasternet_l_1x_coco.py', 110.9, 484, 74.0),
    )
}


@dataclass(frozen=True)
class ClassifierRow:
    """A classifier of Table 3.

    Attributes:
        parameters: Millions.
        flops: 10^9 multiply-adds at its image size.
        throughput: Images per second on a GPU (2080 Ti), batch 32.
        cpu_latency: Milliseconds on one thread of a CPU (i9-9900X), batch 1.
        accuracy: Top-1 accuracy on ImageNet in percent.
    """
    parameters: float
    flops: float
    throughput: float
    cpu_latency: float
    accuracy: float


#: Table 3, by the name of the network.
TABLE_3: Dict[str, ClassifierRow] = {
    'ShuffleNetV2 1.5x': ClassifierRow(3.5, 0.30, 5598, 11.7, 72.6),
    'MobileNetV2': ClassifierRow(3.5, 0.30, 5684, 13.2, 72.0),
    'MobileViT-XXS': ClassifierRow(1.3, 0.41, 2662, 25.4, 69.0),
    'EdgeNeXt-XXS': ClassifierRow(1.3, 0.26, 3153, 13.8, 71.2),
    'FasterNet-T0': ClassifierRow(3.9, 0.34, 8320, 8.2, 71.9),
    'GhostNet 1.3x': ClassifierRow(7.3, 0.23, 3313, 19.3, 75.7),
    'ShuffleNetV2 2x': ClassifierRow(7.4, 0.58, 3869, 16.8, 74.9),
    'MobileNetV2 1.4x': ClassifierRow(6.1, 0.58, 3600, 20.9, 74.7),
    'MobileViT-XS': ClassifierRow(2.3, 1.03, 1652, 39.9, 74.8),
    'EdgeNeXt-XS': ClassifierRow(2.3, 0.54, 1886, 22.3, 75.0),
    'PVT-Tiny': ClassifierRow(13.2, 1.94, 1264, 47.5, 75.1),
    'FasterNet-T1': ClassifierRow(7.6, 0.85, 4621, 16.4, 76.2),
    'CycleMLP-B1': ClassifierRow(15.2, 2.10, 866, 111.9, 79.1),
    'PoolFormer-S12': ClassifierRow(11.9, 1.82, 1451, 48.2, 77.2),
    'MobileViT-S': ClassifierRow(5.6, 2.01, 1212, 56.4, 78.4),
    'EdgeNeXt-S': ClassifierRow(5.6, 1.26, 1194, 36.4, 79.4),
    'ResNet50': ClassifierRow(25.5, 4.09, 1118, 69.4, 78.8),
    'FasterNet-T2': ClassifierRow(15.0, 1.90, 2282, 30.8, 78.9),
    'CycleMLP-B2': ClassifierRow(26.8, 3.90, 530, 178.6, 81.6),
    'PoolFormer-S24': ClassifierRow(21.4, 3.41, 754, 90.8, 80.3),
    'PoolFormer-S36': ClassifierRow(30.9, 5.00, 507, 134.3, 81.4),
    'ConvNeXt-T': ClassifierRow(28.6, 4.47, 653, 90.7, 82.1),
    'Swin-T': ClassifierRow(28.3, 4.51, 600, 123.6, 81.3),
    'PVT-Small': ClassifierRow(24.5, 3.83, 689, 88.2, 79.8),
    'PVT-Medium': ClassifierRow(44.2, 6.69, 433, 138.2, 81.2),
    'FasterNet-S': ClassifierRow(31.1, 4.55, 1142, 67.9, 81.3),
    'PoolFormer-M36': ClassifierRow(56.2, 8.80, 317, 206.2, 82.1),
    'ConvNeXt-S': ClassifierRow(50.2, 8.71, 373, 157.9, 83.1),
    'Swin-S': ClassifierRow(49.6, 8.77, 345, 227.8, 83.0),
    'PVT-Large': ClassifierRow(61.4, 9.85, 300, 198.3, 81.7),
    'FasterNet-M': ClassifierRow(53.5, 8.72, 543, 123.0, 83.0),
    'PoolFormer-M48': ClassifierRow(73.5, 11.59, 238, 275.3, 82.5),
    'ConvNeXt-B': ClassifierRow(88.6, 15.38, 249, 267.7, 83.8),
    'Swin-B': ClassifierRow(87.8, 15.47, 232, 361.1, 83.5),
    'FasterNet-L': ClassifierRow(93.4, 15.49, 345, 209.6, 83.5),
}


@dataclass(frozen=True)
class OperatorRow:
    """Ten layers of an operator in Table 1.

    Attributes:
        flops: 10^6 multiply-adds.
        throughput: Images per second on a GPU (2080 Ti), batch 32.
        cpu_latency: Milliseconds on one thread of a CPU (i9-9900X), batch 1.
    """
    flops: float
    throughput: float
    cpu_latency: float


#: Channels and side of Table 1's feature maps.
TABLE_1_SIZES: Tuple[Tuple[int, int], ...] = ((96, 56), (192, 28), (384, 14), (768, 7))
#: Table 1, by operator, a row for each of the sizes.
TABLE_1: Dict[str, Tuple[OperatorRow, ...]] = {
    'Conv': (OperatorRow(2601, 3010, 35.67), OperatorRow(2601, 4893, 28.41), OperatorRow(2601, 4558, 31.85),
             OperatorRow(2601, 3159, 62.71)),
    'GConv': (OperatorRow(162, 2888, 21.90), OperatorRow(162, 10811, 7.58), OperatorRow(162, 15534, 4.40),
              OperatorRow(162, 16000, 4.28)),
    'DWConv': (OperatorRow(27.09, 11940, 3.59), OperatorRow(13.54, 23358, 1.97), OperatorRow(6.77, 46377, 1.06),
               OperatorRow(3.38, 88889, 0.68)),
    'PConv': (OperatorRow(162, 15385, 4.74), OperatorRow(162, 20513, 2.38), OperatorRow(162, 37209, 3.32),
              OperatorRow(162, 43243, 3.95)),
}

#: Table 9: images per second on a GPU with split_cat and with slicing, milliseconds on a CPU with both, of ten layers
#: of PConv, and of FasterNet at 224 x 224 pixels.
TABLE_9: Dict[str, Tuple[float, float, float, float]] = {
    'PConv 96x56x56': (9215, 15385, 5.5, 4.7),
    'PConv 192x28x28': (14360, 20513, 3.1, 2.4),
    'PConv 384x14x14': (24408, 37209, 3.6, 3.3),
    'PConv 768x7x7': (32866, 43243, 5.0, 4.0),
    'FasterNet-T0': (7653, 8320, 8.5, 8.2),
    'FasterNet-T1': (4352, 4621, 16.9, 16.4),
    'FasterNet-T2': (2163, 2282, 31.8, 30.8),
    'FasterNet-S': (1089, 1142, 69.3, 67.9),
    'FasterNet-M': (527, 543, 125.3, 123.0),
    'FasterNet-L': (337, 345, 215.6, 209.6),
}

#: Table 2: test loss of an operator and a 1x1 convolution fitted to ResNet-50's first 3x3 convolution of each stage.
TABLE_2: Dict[str, Tuple[float, float, float, float]] = {
    'DWConv + PWConv': (0.0089, 0.0158, 0.0214, 0.0130),
    'GConv + PWConv': (0.0065, 0.0137, 0.0202, 0.0128),
    'PConv + PWConv': (0.0069, 0.0136, 0.0172, 0.0115),
}
