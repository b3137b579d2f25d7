"""Exported files as functions of tensors: ONNX Runtime and OpenVINO, on the CPU."""

import functools
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
    """A file run by ONNX Runtime, in float32.

    Args:
        path: The ``.onnx`` file.
        dtype: Only float32: ONNX Runtime has no half precision on CPUs.

    Raises:
        UserError: If ONNX Runtime is missing, or can't run the file.
    """

    def __init__(self, path: Union[str, Path], dtype: torch.dtype = torch.float32) -> None:
        if dtype != torch.float32:
            raise UserError(f'ONNX Runtime computes in float32 on a CPU, not in {dtype}: omit --dtype, or export '
                            f'with --format openvino')
        onnxruntime = require('onnxruntime')
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        except Exception as error:  # its errors have no common class
            raise UserError(f"ONNX Runtime can't run '{path}': {str(error).strip().splitlines()[0]}") from None
        self._inputs = [value.name for value in self._session.get_inputs()]

    def __deepcopy__(self, memo: Any) -> 'OnnxRuntimeModel':
        return self  # a session can't be copied, and has no state

    def __call__(self, *inputs: Tensor) -> List[Tensor]:
        """Give the outputs in the order of the file, on the device of the inputs."""
        device = inputs[0].device
        arrays = {name: x.float().contiguous().cpu().numpy() for name, x in zip(self._inputs, inputs)}
        return [torch.from_numpy(array).to(device) for array in self._session.run(None, arrays)]


class OpenVinoModel:
    """A file run by OpenVINO.

    Maps, inputs and outputs of four dimensions, go in and come out in the
    channels-last memory format, which is OpenVINO's own.

    Args:
        path: The ``.xml`` file; an ``.onnx`` file will do as well.
        dtype: What it computes in. Defaults to float32. bfloat16 needs a
            processor that knows it.

    Raises:
        UserError: If OpenVINO is missing, or can't run the file in ``dtype``.
    """

    def __init__(self, path: Union[str, Path], dtype: torch.dtype = torch.float32) -> None:
        openvino = require('openvino')
        if not self.knows(dtype):
            raise UserError(f"OpenVINO can't compute in {dtype} on this processor: run it without --dtype")
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
                'INFERENCE_PRECISION_HINT': _PRECISIONS[dtype],  # else it is bfloat16 wherever the processor knows it
            })
        except RuntimeError as error:
            raise UserError(f"OpenVINO can't run '{path}': {str(error).strip().splitlines()[-1]}") from None
        self._request, self._last = self._model.create_infer_request(), True

    @classmethod
    def of_compiled(cls, compiled: Any) -> 'OpenVinoModel':
        """A model that OpenVINO has compiled already, with the memory format that it has."""
        model = cls.__new__(cls)
        model._model, model._request, model._last = compiled, compiled.create_infer_request(), False
        return model

    @staticmethod
    def knows(dtype: torch.dtype) -> bool:
        """Whether OpenVINO computes in a type on this processor."""
        capabilities = openvino_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
        return {torch.float32: 'FP32', torch.bfloat16: 'BF16', torch.float16: 'FP16'}[dtype] in capabilities

    def __deepcopy__(self, memo: Any) -> 'OpenVinoModel':
        return self  # a compiled model can't be copied, and has no state

    def __call__(self, *inputs: Tensor) -> List[Tensor]:
        """Give the outputs in the order of the file, float32, on the device of the inputs."""
        device = inputs[0].device
        arrays = [(_to_last(x.float()) if self._last else x.float()).contiguous().cpu().numpy() for x in inputs]
        outputs = self._request.infer(arrays, share_inputs=True)
        tensors = [torch.from_numpy(outputs[port]).to(device) for port in self._model.outputs]
        return [_from_last(x) for x in tensors] if self._last else tensors


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's core, one for the life of the process.

    The CPU plugin of each core (2026.4) sets an alternate signal stack, and
    brings back the one before it as it goes. Of two cores that go in the order
    they came, the second brings back a stack that the first has freed: the next
    signal, such as that of a data loader's worker that ends, is the process' end.
    """
    return require('openvino').Core()


def load_runtime(path: Union[str, Path], dtype: torch.dtype = torch.float32) -> Union[OnnxRuntimeModel, OpenVinoModel]:
    """The runtime for a file, by its suffix: OpenVINO for ``.xml``, else ONNX Runtime."""
    return (OpenVinoModel if Path(path).suffix == SUFFIXES['openvino'] else OnnxRuntimeModel)(path, dtype)


def _to_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1) if x.dim() == 4 else x


def _from_last(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2) if x.dim() == 4 else x
