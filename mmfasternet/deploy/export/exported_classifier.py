"""A classifier whose network is an exported file."""

from pathlib import Path
from typing import Any, Dict, Union

from mmfasternet.deploy.export.exported_model import ExportedModel
from mmfasternet.registry import MODELS


@MODELS.register_module()
class ExportedClassifier(ExportedModel):
    """A classifier that runs an exported file from images to logits.

    Args:
        classifier: Config of the classifier that was exported.
        exported: Folder that :func:`export_model` or :func:`export_int8` made.
        others: See :class:`ExportedModel`.
    """
    scope = 'mmpretrain'

    def __init__(self,
                 classifier: Dict[str, Any],
                 exported: Union[str, Path],
                 dtype: str = 'float32',
                 data_preprocessor: Any = None) -> None:
        super().__init__(classifier, exported, dtype, data_preprocessor)
