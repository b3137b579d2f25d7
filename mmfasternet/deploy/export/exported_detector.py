"""A detector whose networks are exported files."""

from pathlib import Path
from typing import Any, Dict, Union

from torch import nn

from mmfasternet.deploy.export.exported_model import ExportedModel
from mmfasternet.registry import MODELS


@MODELS.register_module()
class ExportedDetector(ExportedModel):
    """A detector that runs exported files, with MMDetection's own post-processing between them.

    Args:
        detector: Config of the detector that was exported.
        exported: Folder that :func:`export_model` or :func:`export_int8` made,
            with the RoI heads if the detector has any.
        others: See :class:`ExportedModel`.
    """

    def __init__(self,
                 detector: Dict[str, Any],
                 exported: Union[str, Path],
                 dtype: str = 'float32',
                 data_preprocessor: Any = None) -> None:
        super().__init__(detector, exported, dtype, data_preprocessor)

    @property
    def detector(self) -> nn.Module:
        """The detector, with files instead of its networks."""
        return self.model
