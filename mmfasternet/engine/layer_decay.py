"""Layer-wise learning rate decay, from the head of a model to its input."""

from typing import Any, Dict, List, Optional, Union

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmfasternet.errors import ArgumentError
from mmfasternet.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor with a learning rate that decays over the layer groups of a backbone.

    It works for detectors and classifiers. MMPretrain's constructor does the
    same for classifiers only; MMDetection's only supports its own ConvNeXt.

    Args:
        optim_wrapper_cfg: As MMEngine's.
        paramwise_cfg: As MMEngine's, and ``layer_decay_rate``: the last group
            (neck and heads) has the full learning rate, and each group before
            it the learning rate of the next group times this factor, in (0,
            1].

    Raises:
        ValueError: If there is no ``layer_decay_rate``, or if it is out of its
            range.

    Example:
        In a config, for a detector with FasterNet-T0, whose patch embedding
        then has 0.9**14 = 0.23 of the learning rate::

            optim_wrapper = dict(
                constructor='mmfasternet.LayerDecayOptimWrapperConstructor',
                paramwise_cfg=dict(layer_decay_rate=0.9))
    """

    def __init__(self, optim_wrapper_cfg: Dict[str, Any], paramwise_cfg: Optional[Dict[str, Any]] = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.decay_rate = self.paramwise_cfg.get('layer_decay_rate')
        if not self.decay_rate or not 0 < self.decay_rate <= 1:
            raise ArgumentError(f'paramwise_cfg.layer_decay_rate must lie in (0, 1], got {self.decay_rate}')

    def add_params(self,
                   params: List[Dict[str, Any]],
                   module: nn.Module,
                   prefix: str = '',
                   is_dcn_module: Union[int, float, None] = None) -> None:
        """Add a group for each parameter; MMEngine calls this for the model and, with ``prefix``, for each module.

        Raises:
            ValueError: If the optimizer has no ``lr``, or the model's backbone lacks ``get_layer_depth(name, prefix)``.
        """
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return
        if self.base_lr is None:
            raise ArgumentError("optim_wrapper.optimizer.lr must be set, because the layers' learning rates are "
                                'fractions of it')
        backbone: Any = getattr(module, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise ArgumentError(f'{type(self).__name__} needs a model whose backbone has get_layer_depth(), as '
                                f'FasterNet has, got {type(module).__name__} with {type(backbone).__name__}')
        names = {parameter: name for name, parameter in module.named_parameters()}
        for group in params:
            parameter, = group['params']
            index, count = backbone.get_layer_depth(names[parameter], 'backbone.')
            group['lr'] = group.get('lr', self.base_lr) * self.decay_rate**(count - 1 - index)
