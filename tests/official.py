"""Weights by the names of the authors' files, written down from those names."""

from collections import OrderedDict

import torch


def official_backbone(backbone):
    """The weights of a backbone, with its output norms if it has them."""
    modules = {}
    for index, stage in enumerate(backbone.stages):
        patch = stage.downsample
        conv, norm = (('patch_embed.proj', 'patch_embed.norm') if index == 0 else
                      (f'stages.{2 * index - 1}.reduction', f'stages.{2 * index - 1}.norm'))
        modules.update({conv: patch.conv, norm: patch.norm})
        for block_index, block in enumerate(stage.blocks):
            prefix = f'stages.{2 * index}.blocks.{block_index}'
            modules[f'{prefix}.mlp.0'] = block.conv1
            modules[f'{prefix}.mlp.1'] = block.norm
            modules[f'{prefix}.mlp.3'] = block.conv2
            modules[f'{prefix}.spatial_mixing.partial_conv3'] = block.pconv.conv
    if backbone.out_norm:
        modules.update({f'norm{2 * index}': getattr(backbone, f'norm{index}') for index in backbone.out_indices})
    return OrderedDict((f'{name}.{entry}', value) for name, module in modules.items()
                       for entry, value in module.state_dict().items())


def official_classifier(backbone, num_classes=1000):
    """The weights of a classifier on this backbone, its head drawn at random."""
    weights = official_backbone(backbone)
    weights['avgpool_pre_head.1.weight'] = torch.randn(1280, backbone.stage_channels[-1], 1, 1)
    weights['head.weight'], weights['head.bias'] = torch.randn(num_classes, 1280), torch.randn(num_classes)
    return weights


def official_detector(detector):
    """The weights of a detector as MMDetection 2.x names them."""
    weights = OrderedDict((f'backbone.{key}', value) for key, value in official_backbone(detector.backbone).items())
    weights.update((key, value) for key, value in detector.state_dict().items() if not key.startswith('backbone.'))
    return weights
