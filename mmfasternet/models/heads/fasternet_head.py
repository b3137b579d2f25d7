"""The classification head of FasterNet."""

from typing import Any, Dict, List, Tuple, Union

from mmcv.cnn import build_activation_layer
from mmpretrain.models.heads import ClsHead
from torch import Tensor, nn

from mmfasternet.errors import ArgumentError
from mmfasternet.registry import MODELS

Config = Dict[str, Any]


@MODELS.register_module()
class FasterNetHead(ClsHead):
    """Global average pooling, 1x1 convolution without bias, activation, fully connected layer.

    Source: FasterNet, Fig. 4 and Table 8. Use it in MMPretrain's
    ``ImageClassifier`` with a backbone with ``out_norm=False`` and without a
    neck.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the last stage.
        act_cfg: Activation, the same as in the backbone: GELU for T0 and T1,
            ReLU for the others.
        hidden_channels: Channels between convolution and fully connected
            layer. Defaults to 1280.
        loss: Classification loss.
            Defaults to ``dict(type='CrossEntropyLoss', loss_weight=1.0)``.
        topk: The k of the top-k accuracies. Defaults to (1, 5).
        cal_acc: Log the accuracy of the training batches; not together with
            Mixup or CutMix. Defaults to False.
        init_cfg: Initialisation. Defaults to a normal distribution of standard
            deviation 0.02 and biases of 0.

    Raises:
        ValueError: If a number is not positive; the message names it.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 act_cfg: Config,
                 hidden_channels: int = 1280,
                 loss: Config = dict(type='CrossEntropyLoss', loss_weight=1.0),
                 topk: Union[int, Tuple[int, ...]] = (1, 5),
                 cal_acc: bool = False,
                 init_cfg: Union[Config, List[Config], None] = None) -> None:
        super().__init__(
            loss=loss,
            topk=(topk, ) if isinstance(topk, int) else tuple(topk),
            cal_acc=cal_acc,
            init_cfg=init_cfg or dict(type='TruncNormal', layer=['Conv2d', 'Linear'], std=0.02, bias=0.))
        for name, value in (('num_classes', num_classes), ('in_channels', in_channels),
                            ('hidden_channels', hidden_channels)):
            if value < 1:
                raise ArgumentError(f'{name} must be positive, got {value}')
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv2d(in_channels, hidden_channels, 1, bias=False)
        self.act = build_activation_layer(dict(act_cfg))
        self.fc = nn.Linear(hidden_channels, num_classes)

    def pre_logits(self, feats: Tuple[Tensor, ...]) -> Tensor:
        """Map the last of the feature maps, ``(N, in_channels, H, W)``, to ``(N, hidden_channels)``."""
        return self.act(self.conv(self.pool(feats[-1]))).flatten(1)

    def forward(self, feats: Tuple[Tensor, ...]) -> Tensor:
        """Map the last of the feature maps, ``(N, in_channels, H, W)``, to scores ``(N, num_classes)``."""
        return self.fc(self.pre_logits(feats))
