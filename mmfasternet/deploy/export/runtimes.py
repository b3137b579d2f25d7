"""Runs exported files as functions of tensors: ONNX Runtime and OpenVINO, on the CPU."""

import functools
import threading
from pathlib import Path
from typing import Any, List, Union

import torch
from torch import Tensor

from mmfasternet.errors import UserError
from mmfasternet.installed import require

#: File suffix of each format; the weights of an OpenVINO model are beside it, in ``.bin``.
SUFFIXES = {'onnx': '.onnx', 'openvino': '.xml'}
_PRECISIONS = {torch.float32: 'f32', torch.bfloat16: 'bf16', torch.float16: 'f16'}


class OnnxRuntimeModel:
    """A file run with ONNX Runtime in float32.

    Args:
        path: The ``.onnx`` file.
        dtype: Must be float32: ONNX Runtime has no half precision on CPUs.

    Raises:
        UserError: If ONNX Runtime is missing, or can't run the file.
    """

    def __init__(self, path: Union[str, Path], dtype: torch.dtype = torch.float32) -> None:
        if dtype != torch.float32:
            raise UserError(f'ONNX Runtime computes in float32 on a CPU, not in {dtype}: omit --dtype, or export with '
                            '--format openvino')
        onnxruntime = require('onnxruntime')
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        except Exception as error:  # its errors have no common base class
            raise UserError(f"ONNX Runtime can't run '{path}': {str(error).strip().splitlines()[0]}") from None
        self._inputs = [value.name for value in self._session.get_inputs()]

    def __deepcopy__(self, memo: Any) -> 'OnnxRuntimeModel':
        return self  # a session can't be copied, and has no state

    def __call__(self, *inputs: Tensor) -> List[Tensor]:
        """Return the outputs in the order of the file, on the device of the inputs."""
        device = inputs[0].device
        arrays = {name: x.float().contiguous().cpu().numpy() for name, x in zip(self._inputs, inputs)}
        return [torch.from_numpy(array).to(device) for array in self._session.run(None, arrays)]


class OpenVinoModel:
    """A file run with OpenVINO.

    Maps (four-dimensional inputs and outputs) are passed in the channels-last
    memory format, which is OpenVINO's own.

    Args:
        path: The ``.xml`` file; an ``.onnx`` file works as well.
        dtype: Type to compute in. Defaults to float32. bfloat16 needs a
            processor that supports it.

    Raises:
        UserError: If OpenVINO is missing, or can't run the file in ``dtype``.
    """

    def __init__(self, path: Union[str, Path], dtype: torch.dtype = torch.float32) -> None:
        openvino = require('openvino')
        if not self.knows(dtype):
            raise UserError(f"OpenVINO can't compute in {dtype} on this processor: run without --dtype")
        core = openvino_core()
        try:
            model = core.read_model(str(path))
            steps = openvino.preprocess.PrePostProcessor(model)
            for ports, part in ((model.inputs, steps.input), (model.outputs, steps.output)):
                for index, port in enumerate(ports):
                    if len(port.partial_shape) == 4:
                        part(index).model().set_layout(openvino.Layout('NCHW'))
                        part(index).tensor().set_layout(openvino.Layout('NHWC'))
            self._model = core.compile_model(steps.build(), 'CPU', {
                'PERFORMANCE_HINT': 'LATENCY',
                'INFERENCE_NUM_THREADS': torch.get_num_threads(),
                'INFERENCE_PRECISION_HINT': _PRECISIONS[dtype],  # else it is bfloat16 if the processor supports it
            })
        except RuntimeError as error:
            raise UserError(f"OpenVINO can't run '{path}': {str(error).strip().splitlines()[-1]}") from None
        self._requests, self._last = threading.local(), True

    @classmethod
    def of_compiled(cls, compiled: Any) -> 'OpenVinoModel':
        """A model that OpenVINO has already compiled, with its memory format."""
        model = cls.__new__(cls)
        model._model, model._requests, model._last = compiled, threading.local(), False
        return model

    @staticmethod
    def knows(dtype: torch.dtype) -> bool:
        """Whether OpenVINO computes in a type on this processor."""
        capabilities = openvino_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
        return {torch.float32: 'FP32', torch.bfloat16: 'BF16', torch.float16: 'FP16'}[dtype] in capabilities

    def __deepcopy__(self, memo: Any) -> 'OpenVinoModel':
        return self  # a compiled model can't be copied, and each thread has the state of its calls

    def __call__(self, *inputs: Tensor) -> List[Tensor]:
        """Return the outputs in the order of the file, float32, on the device of the inputs."""
        device = inputs[0].device
        arrays = [(_to_last(x.float()) if self._last else x.float()).contiguous().cpu().numpy() for x in inputs]
        if not hasattr(self._requests, 'own'):  # a request holds the tensors of one call
            self._requests.own = self._model.create_infer_request()
        outputs = self._requests.own.infer(arrays, share_inputs=True)
        tensors = [torch.from_numpy(outputs[port]).to(device) for port in self._model.outputs]
        return [_from_last(x) for x in tensors] if self._last else tensors


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's core, one for the lifetime of the process.

    The CPU plugin of each core (2026.4) sets an alternate signal stack, and restores the previous one when it is
    destroyed. If two cores are destroyed in the order of their creation, the second restores a stack that the first has
    freed: the next signal, such as that of an ending data loader worker, kills the process.
    """
    return require('openvino').Core()


def load_runtime(path: Union[str, Path], dtype: torch.dtype = torch.float32) -> Union[OnnxRuntimeModel, OpenVinoModel]:
    """The runtime for a file, by its suffix: OpenVINO for ``.xml``, else ONNX Runtime."""
    return (OpenVinoModel if Path(path).suffix == SUFFIXES['openvino'] else OnnxRuntimeModel)(path, dtype)


def _to_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1) if x.dim() == 4 else x


def _from_last(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2) if x.dim() == 4 else x
