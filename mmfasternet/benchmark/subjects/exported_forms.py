"""Exported files as forms of a model, run on the CPU."""

from typing import List, Sequence, Tuple

import torch

from mmfasternet.deploy.export.runtimes import OpenVinoModel
from mmfasternet.errors import UserError


def exported_forms(dtypes: Sequence[torch.dtype]) -> List[Tuple[str, str, torch.dtype, str]]:
    """File format, runtime, type and memory format, for those of the types that a runtime computes in here."""
    return [*(('onnx', 'ONNX Runtime', dtype, 'NCHW') for dtype in dtypes if dtype == torch.float32),
            *(('openvino', 'OpenVINO', dtype, 'NHWC') for dtype in dtypes if _known(dtype))]


def _known(dtype: torch.dtype) -> bool:
    try:
        return OpenVinoModel.knows(dtype)
    except UserError:  # it is not installed, which the entry says that needs it
        return True
