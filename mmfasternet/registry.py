"""Registries of mmfasternet: children of MMEngine's, in scope ``mmfasternet``.

Configs refer to types registered here with the scope, for example
``type='mmfasternet.FasterNet'``; MMEngine then finds it from the scope of any
other OpenMMLab package.
"""

from importlib import import_module
from typing import Any, Dict, Optional

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISUALIZERS as MMENGINE_VISUALIZERS
from mmengine.registry import WEIGHT_INITIALIZERS as MMENGINE_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

from mmfasternet.errors import UserError
from mmfasternet.installed import missing


class LazyRegistry(Registry):
    """A registry that imports the module of a type when the type is requested.

    MMEngine's ``locations`` are imported all at once: then a backbone would
    need MMDetection and MMPretrain.

    Args:
        name: As in MMEngine.
        modules: The module that registers a type, by the type's name.
        kwargs: As in MMEngine.
    """

    def __init__(self, name: str, modules: Dict[str, str], **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.modules = modules

    def get(self, key: str) -> Optional[type]:
        """Get the registered object of a name.

        Raises:
            UserError: If its module needs a package that is not installed.
        """
        name = key.rpartition('.')[2] if isinstance(key, str) else ''
        if name in self.modules and name not in self.module_dict and key in (name, f'{self.scope}.{name}'):
            try:
                import_module(self.modules[name])
            except ModuleNotFoundError as error:
                if not missing(error):
                    raise
                raise UserError(f"type '{self.scope}.{name}': {missing(error)}") from error
        return super().get(key)


MODELS = LazyRegistry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmfasternet',
    modules=dict(
        FasterNet='mmfasternet.models.backbones.fasternet',
        LN2d='mmfasternet.models.layers.norm',
        FasterNetHead='mmfasternet.models.heads.fasternet_head',
        InstanceTTAModel='mmfasternet.models.tta',
        ExportedClassifier='mmfasternet.deploy.export.exported_classifier',
        ExportedDetector='mmfasternet.deploy.export.exported_detector',
        TimmFeatures='mmfasternet.benchmark.subjects.timm_detectors'))
DATASETS = LazyRegistry(
    'dataset',
    parent=MMENGINE_DATASETS,
    scope='mmfasternet',
    modules=dict(CocoDataset='mmfasternet.datasets.coco_dataset', Digits='mmfasternet.datasets.digits'))
METRICS = LazyRegistry(
    'metric',
    parent=MMENGINE_METRICS,
    scope='mmfasternet',
    modules=dict(CocoMetric='mmfasternet.datasets.coco_metric'))
TRANSFORMS = Registry(
    'transform', parent=MMENGINE_TRANSFORMS, scope='mmfasternet', locations=['mmfasternet.datasets'])
DATA_SAMPLERS = Registry(
    'data sampler', parent=MMENGINE_DATA_SAMPLERS, scope='mmfasternet', locations=['mmfasternet.datasets'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmfasternet', locations=['mmfasternet.engine.hooks'])
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, scope='mmfasternet', locations=['mmfasternet.engine.loops'])
VISUALIZERS = Registry(
    'visualizer', parent=MMENGINE_VISUALIZERS, scope='mmfasternet',
    locations=['mmfasternet.engine.picture_visualizer'])
WEIGHT_INITIALIZERS = Registry(
    'weight initializer', parent=MMENGINE_WEIGHT_INITIALIZERS, scope='mmfasternet',
    locations=['mmfasternet.checkpoints.initializer'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor', parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS, scope='mmfasternet',
    locations=['mmfasternet.engine.layer_decay'])
