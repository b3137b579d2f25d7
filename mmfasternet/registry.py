"""Registries of mmfasternet: children of MMEngine's, in scope ``mmfasternet``.

Configs name what is registered here with the scope, for example
``type='mmfasternet.FasterNet'``; MMEngine then finds it from the scope of any
other OpenMMLab package.
"""

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import WEIGHT_INITIALIZERS as MMENGINE_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

MODELS = Registry(
    'model', parent=MMENGINE_MODELS, scope='mmfasternet', locations=['mmfasternet.models', 'mmfasternet.deploy'])
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope='mmfasternet', locations=['mmfasternet.datasets'])
TRANSFORMS = Registry(
    'transform', parent=MMENGINE_TRANSFORMS, scope='mmfasternet', locations=['mmfasternet.datasets'])
DATA_SAMPLERS = Registry(
    'data sampler', parent=MMENGINE_DATA_SAMPLERS, scope='mmfasternet', locations=['mmfasternet.datasets'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmfasternet', locations=['mmfasternet.engine.hooks'])
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, scope='mmfasternet', locations=['mmfasternet.engine.loops'])
WEIGHT_INITIALIZERS = Registry(
    'weight initializer', parent=MMENGINE_WEIGHT_INITIALIZERS, scope='mmfasternet',
    locations=['mmfasternet.checkpoints.initializer'])
