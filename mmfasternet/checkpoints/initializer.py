"""Initialisation of a backbone with the weights of a checkpoint."""

from typing import Any, Optional

from mmengine.logging import print_log

from mmfasternet.checkpoints.compatibility import check_pretrained
from mmfasternet.checkpoints.mmengine_bridge import read_once
from mmfasternet.models import FasterNet
from mmfasternet.registry import WEIGHT_INITIALIZERS


@WEIGHT_INITIALIZERS.register_module()
class PretrainedFasterNet:
    """Initialises a backbone with :func:`load_pretrained_backbone`; ``init_cfg`` of type ``'Pretrained'`` becomes this.

    Args:
        checkpoint: Path or URL.
        prefix, map_location: As for :func:`load_pretrained_backbone`.
    """

    def __init__(self, checkpoint: str, prefix: Optional[str] = None, map_location: Any = 'cpu') -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.map_location = map_location

    def __call__(self, module: FasterNet) -> None:
        load_pretrained_backbone(module, str(self.checkpoint), self.prefix, self.map_location)


def load_pretrained_backbone(backbone: FasterNet, checkpoint: str, prefix: Optional[str] = None,
                             map_location: Any = 'cpu') -> None:
    """Load ImageNet weights into a backbone; only its output norms may be missing from them.

    Args:
        backbone: The backbone. If it lacks the last stages, their weights are
            not loaded.
        checkpoint: Path or URL of a classifier, a detector or a backbone of
            FasterNet, in any layout.
        prefix: Prefix of the backbone's keys, if it is not ``backbone.``.
            Defaults to None: it is found by its keys.
        map_location: Where the file's tensors go before they are copied, as
            ``torch.load`` takes it. Defaults to ``'cpu'``.

    Raises:
        CheckpointError: If the file can't be read or does not fit; the message
            names the file and lists what does not match.
    """
    weights = check_pretrained(backbone, read_once(checkpoint, map_location), checkpoint, prefix)
    backbone.load_state_dict(weights, strict=False)
    print_log(f'backbone weights loaded from {checkpoint}', logger='current')
