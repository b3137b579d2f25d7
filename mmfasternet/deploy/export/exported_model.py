"""A model whose networks are exported files."""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Dict, Union

import torch
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from torch import Tensor

from mmfasternet.deploy.export.exported_networks import part_names, replace_networks
from mmfasternet.deploy.export.manifest import Manifest, fingerprint
from mmfasternet.deploy.export.runtimes import load_runtime
from mmfasternet.errors import ArgumentError, UserError
from mmfasternet.registry import MODELS


class ExportedModel(BaseModel):
    """A model that runs exported files, with its own processing before and after them.

    It can be used wherever the model is used: it has the same ``test_step``.

    Args:
        model: Config of the model that was exported. Its thresholds may
            differ from those at the export; its layers may not.
        exported: Folder that :func:`export_model` or :func:`export_int8` made.
        dtype: Name of the type that the files compute in, except for int8
            layers: ``'float32'``, ``'bfloat16'`` or ``'float16'``; the latter
            two with OpenVINO only. Defaults to ``'float32'``.
        data_preprocessor: The model's preprocessor, if the model's config has
            none: MMEngine's runner passes the top-level one. Defaults to None.

    Raises:
        UserError: If the folder is not an export of this model, lacks a part,
            or can't be run in ``dtype``.
    """

    #: In which the types of ``model`` are looked up, if the program has set no default scope.
    scope = 'mmdet'

    def __init__(self,
                 model: Dict[str, Any],
                 exported: Union[str, Path],
                 dtype: str = 'float32',
                 data_preprocessor: Any = None) -> None:
        super().__init__()
        manifest = Manifest.read(exported)
        if manifest.model not in (None, fingerprint(model)):
            raise UserError(f"'{exported}' was exported from another model than this config's. Give the config that "
                            'was used for mmfasternet export, or export again')
        model = copy.deepcopy(model)  # some detectors write into their config
        if data_preprocessor is not None:
            model.setdefault('data_preprocessor', data_preprocessor)
        with nullcontext() if DefaultScope.get_current_instance() else DefaultScope.overwrite_default_scope(self.scope):
            self.model = MODELS.build(model)
        self.data_preprocessor = self.model.data_preprocessor
        found, names = {part.name: part for part in manifest.parts}, part_names(self.model)
        lacking = next((name for name in names if name not in found), None)
        if lacking:
            raise UserError(f"'{exported}' holds no {lacking}: export the model again, a two-stage detector with "
                            f'--parts')
        replace_networks(self.model, [found[name] for name in names],
                         [load_runtime(Path(exported) / found[name].file, getattr(torch, dtype)) for name in names])
        leftover = next((name for name, _ in self.model.named_parameters()), None)
        if leftover:
            raise UserError(f'{type(self.model).__name__} has weights that no exported part holds ({leftover}): run it '
                            'from its checkpoint')
        self.eval()

    def test_step(self, data: Union[dict, tuple, list]) -> list:
        """Predict, as the model's own ``test_step`` does."""
        return self.model.test_step(data)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'predict') -> Any:
        """Predict; the other modes of MMEngine models need the networks in PyTorch."""
        if mode != 'predict':
            raise ArgumentError(f"{type(self).__name__} is for mode 'predict' only, not for '{mode}'")
        return self.model(inputs, data_samples, mode=mode)
