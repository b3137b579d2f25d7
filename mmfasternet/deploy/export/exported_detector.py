"""A detector whose networks are exported files."""

import copy
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple, Union

import torch
from mmdet.models.detectors import TwoStageDetector
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmfasternet.deploy.dense import DenseOutputs, each_module, remove_layers, replace_dense_part
from mmfasternet.deploy.export.manifest import Manifest, fingerprint
from mmfasternet.deploy.export.runtimes import load_runtime
from mmfasternet.deploy.replacing import replace_modules
from mmfasternet.deploy.roi_align import DeployedRoIExtractor
from mmfasternet.errors import ArgumentError, UserError
from mmfasternet.registry import MODELS

Run = Callable[..., List[Tensor]]


@MODELS.register_module()
class ExportedDetector(BaseModel):
    """A detector that runs exported files, with MMDetection's own post-processing between them.

    It stands wherever the detector does: it has the same ``test_step``.

    Args:
        detector: Config of the detector that was exported. Its thresholds may
            differ from those at the export; its layers may not.
        exported: Folder that :func:`export_model` made, with the parts of the
            RoI heads if the detector has such.
        dtype: Name of the type the files compute in: ``'float32'``,
            ``'bfloat16'`` or ``'float16'``; the smaller two by OpenVINO only.
            Defaults to ``'float32'``.
        data_preprocessor: The detector's, where its config has none.
            MMEngine's runner hands over what stands beside the model.
            Defaults to None.

    Raises:
        UserError: If the folder is no export of this detector, lacks a part,
            or can't be run in ``dtype``.
    """

    def __init__(self,
                 detector: Dict[str, Any],
                 exported: Union[str, Path],
                 dtype: str = 'float32',
                 data_preprocessor: Any = None) -> None:
        super().__init__()
        manifest = Manifest.read(exported)
        if manifest.model not in (None, fingerprint(detector)):
            raise UserError(f"'{exported}' was exported from another model than this config's. Name the config that "
                            f'was given to mmfasternet export, or export again')
        detector = copy.deepcopy(detector)  # some detectors write into their config
        if data_preprocessor is not None:
            detector.setdefault('data_preprocessor', data_preprocessor)
        self.detector = MODELS.build(detector)
        self.data_preprocessor = self.detector.data_preprocessor
        self._parts = {part.name: part for part in manifest.parts}
        self._folder, self._dtype = Path(exported), getattr(torch, dtype)
        replace_dense_part(self.detector, self._dense())
        if isinstance(self.detector, TwoStageDetector):
            for kind in ('bbox', 'mask'):
                self._replace_heads(kind)
            replace_modules(self.detector, DeployedRoIExtractor.of)
        leftover = next((name for name, _ in self.detector.named_parameters()), None)
        if leftover:
            raise UserError(f"{type(self.detector).__name__} has weights that no exported part holds ({leftover}): it "
                            f'has to be run from its checkpoint')
        self.eval()

    def test_step(self, data: Union[dict, tuple, list]) -> list:
        """Predict, as the detector's own ``test_step`` does."""
        return self.detector.test_step(data)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'predict') -> Any:
        """Predict; the other modes of MMEngine's models need the networks in PyTorch."""
        if mode != 'predict':
            raise ArgumentError(f"a ExportedDetector is for mode 'predict' only, not for '{mode}'")
        return self.detector(inputs, data_samples, mode=mode)

    def _load(self, name: str) -> Run:
        if name not in self._parts:
            raise UserError(f"'{self._folder}' holds no {name}: export the detector again, a two-stage one with "
                            f'--parts')
        return load_runtime(self._folder / self._parts[name].file, self._dtype)

    def _dense(self) -> Callable[[Tensor], DenseOutputs]:
        run = self._load('dense')
        maps, *kinds = self._parts['dense'].outputs

        def compute(images: Tensor) -> DenseOutputs:
            outputs = iter(run(images))
            return tuple(next(outputs) for _ in maps), tuple([next(outputs) for _ in kind] for kind in kinds)

        return compute

    def _replace_heads(self, kind: str) -> None:
        heads = getattr(self.detector.roi_head, f'{kind}_head', None)
        for index, head in enumerate(each_module(heads)):
            name = f'{kind}_head' + (f'_{index}' if isinstance(heads, nn.ModuleList) else '')
            head.forward = _HeadRunner(self._load(name))
            remove_layers(head)


class _HeadRunner:
    """Stands in a head's ``forward``'s place."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, x: Tensor) -> Union[Tensor, Tuple[Tensor, ...]]:
        outputs = self.run(x)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
