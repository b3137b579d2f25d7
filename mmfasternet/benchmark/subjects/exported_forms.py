"""Exported files as forms of a model, run on the CPU."""

import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import nn

from mmfasternet.deploy.export.exporting import export_model
from mmfasternet.deploy.export.int8 import Batches, export_int8
from mmfasternet.deploy.export.runtimes import OpenVinoModel
from mmfasternet.errors import UserError

#: As what a file of int8 layers computes what is not int8 in it.
_BESIDE_INT8 = torch.float32


def exported_forms(dtypes: Sequence[torch.dtype]) -> List[Tuple[str, str, torch.dtype, str]]:
    """File format, runtime, type and memory format, for the types that a runtime supports on this machine."""
    onnx = (torch.float32, torch.int8)
    return [*(('onnx', 'ONNX Runtime', dtype, 'NCHW') for dtype in dtypes if dtype in onnx),
            *(('openvino', 'OpenVINO', dtype, 'NHWC') for dtype in dtypes if _known(dtype))]


def float_types(dtypes: Sequence[torch.dtype]) -> List[torch.dtype]:
    """The types of PyTorch's forms: int8 is only for exported files."""
    return [dtype for dtype in dtypes if dtype.is_floating_point]


def run_type(dtype: torch.dtype) -> torch.dtype:
    """The type that a runtime is told to compute in."""
    return dtype if dtype.is_floating_point else _BESIDE_INT8


class Exports:
    """Folders with a model's files, each exported on first use and deleted with this object.

    Args:
        model: The model.
        calibration: Inputs to calibrate int8 on: for a latency any images
            work.
        parts: Whether to export the RoI heads as well. Defaults to False.
        model_cfg: The model's config. Defaults to None.
    """

    def __init__(self, model: nn.Module, calibration: Batches, parts: bool = False,
                 model_cfg: Optional[Dict[str, Any]] = None) -> None:
        self.model, self.calibration, self.parts, self.model_cfg = model, calibration, parts, model_cfg
        self._folders: Dict[Tuple[str, bool], tempfile.TemporaryDirectory] = {}

    def folder(self, file_format: str, dtype: torch.dtype) -> Path:
        """The folder of a format, in int8 or in float32."""
        key = file_format, dtype == torch.int8
        if key not in self._folders:
            made = tempfile.TemporaryDirectory()
            out = str(Path(made.name) / file_format)
            if dtype == torch.int8:
                export_int8(self.model, out, self.calibration, file_format, self.parts, model_cfg=self.model_cfg)
            else:
                export_model(self.model, out, file_format, self.parts, model_cfg=self.model_cfg)
            self._folders[key] = made
        return Path(self._folders[key].name) / file_format


def _known(dtype: torch.dtype) -> bool:
    try:
        return OpenVinoModel.knows(run_type(dtype))
    except UserError:  # not installed: the entry that needs it reports this
        return True
