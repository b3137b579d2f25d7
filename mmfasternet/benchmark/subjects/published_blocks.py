"""The published forms of FasterNet's block, for comparison."""

import copy
from typing import Type

from torch import Tensor, nn

from mmfasternet.deploy import DeployedBlock
from mmfasternet.models.layers import FasterNetBlock


class CloneSlicingBlock(DeployedBlock):
    """The published corrected form: the input is cloned, and the convolved channels are written into the clone."""

    def forward(self, x: Tensor) -> Tensor:
        partial = x.clone()
        partial[:, :self.conv_channels] = self.pconv(x[:, :self.conv_channels])
        return x + self.conv2(self.act(self.norm(self.conv1(partial))))


class InPlaceSlicingBlock(DeployedBlock):
    """The published fast form, listing 1 of the paper: wrong here, because it overwrites the input of the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        x[:, :self.conv_channels] = self.pconv(x[:, :self.conv_channels])
        return x + self.conv2(self.act(self.norm(self.conv1(x))))


def with_blocks(backbone: nn.Module, block_class: Type[DeployedBlock]) -> nn.Module:
    """A copy of a FasterNet with other blocks."""
    backbone = copy.deepcopy(backbone)
    for module in list(backbone.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, FasterNetBlock):
                setattr(module, name, block_class(child))
    return backbone
