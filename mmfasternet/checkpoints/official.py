"""Key names of the weights that the authors of FasterNet published."""

import re
from typing import Any, Dict

# official -> ours, within an embedding or merging layer and within a block
_PATCH_KEYS = {'proj': 'conv', 'reduction': 'conv', 'norm': 'norm'}
_BLOCK_KEYS = {
    'spatial_mixing.partial_conv3': 'pconv.conv',
    'mlp.0': 'conv1',
    'mlp.1': 'norm',
    'mlp.3': 'conv2',
}
_OUTPUT_NORM = re.compile(r'norm([0246])$')
_HEAD_PREFIXES = ('avgpool_pre_head.', 'head.')


def is_official(state_dict: Dict[str, Any]) -> bool:
    """Whether the keys are those of the authors' classifiers and backbones."""
    return 'patch_embed.proj.weight' in state_dict


def official_to_backbone(state_dict: Dict[str, Any]) -> Dict[str, Any]:
    """Rename the keys of official weights to those of :class:`FasterNet`.

    The official ``stages`` hold the four stages at the even and the merging
    layers before them at the odd indices; a detector's backbone has output
    norms under the stages' indices. The classifier's head is left out.

    Args:
        state_dict: The official state dict of a classifier or of a
            detector's backbone.

    Returns:
        A state dict for the backbone.

    Raises:
        KeyError: If a key is unknown; it is named.
    """
    renamed = {}
    for key, value in state_dict.items():
        if key.startswith(_HEAD_PREFIXES):
            continue
        try:
            renamed[_rename(key)] = value
        except (KeyError, ValueError):
            raise KeyError(f"'{key}' is no key of official FasterNet weights") from None
    return renamed


def _rename(key: str) -> str:
    module, name = key.rsplit('.', 1)
    parts = module.split('.')
    if parts[0] == 'patch_embed':
        return f'stages.0.downsample.{_PATCH_KEYS[parts[1]]}.{name}'
    output_norm = _OUTPUT_NORM.match(module)
    if output_norm:
        return f'norm{int(output_norm[1]) // 2}.{name}'
    if parts[0] != 'stages':
        raise KeyError(key)
    stage, odd = divmod(int(parts[1]), 2)
    if odd:
        return f'stages.{stage + 1}.downsample.{_PATCH_KEYS[parts[2]]}.{name}'
    return f'stages.{stage}.{parts[2]}.{int(parts[3])}.{_BLOCK_KEYS[".".join(parts[4:])]}.{name}'
