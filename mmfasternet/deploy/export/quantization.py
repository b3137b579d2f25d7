"""Quantises float32 files to int8: NNCF for OpenVINO, and ONNX Runtime's static quantisation."""

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import Any, Callable, Collection, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np
from torch import Tensor

from mmfasternet.cpus import sums_of_int8_saturate
from mmfasternet.deploy.export.exported_networks import Run
from mmfasternet.deploy.export.float_layers import Node, first_layers, nodes_of_onnx, nodes_of_openvino
from mmfasternet.deploy.export.runtimes import OpenVinoModel, openvino_core
from mmfasternet.installed import require

#: What an int8 file is made with, besides the packages of its format.
QUANTIZERS = {'onnx': (), 'openvino': ('nncf', )}
# Layers with weights, and operators that pass values on unchanged. Additions and activations other than ReLU stay in
# float32.
_ONNX_INT8 = ['Conv', 'Gemm', 'MatMul', 'Concat', 'Split', 'Relu', 'MaxPool']
_RANKED = 8  # inputs for NNCF's ranking of layers


class Layers(NamedTuple):
    """The layers with weights of an int8 file, by type."""
    int8: List[str]
    float32: List[str]


class InputData:
    """Calibration inputs of a file, as arrays.

    Args:
        inputs: Tensors, with batch size 1 or several RoIs; iterated several
            times.
        count: Number of inputs.
    """

    def __init__(self, inputs: Iterable[Tensor], count: int) -> None:
        self.inputs = inputs
        self.count = count

    def __iter__(self) -> Iterator[np.ndarray]:
        return (x.numpy() for x in self.inputs)

    def __len__(self) -> int:
        return self.count


#: Gives by how much the accuracy of the model, with this as the part's file, is below that in float32.
Drop = Callable[[Run], float]


def quantize_onnx(file: Path, out: Path, data: InputData, is_entry: bool) -> Layers:
    """Write the int8 file of a float32 ONNX file with ONNX Runtime's static quantisation.

    Weights are symmetric, with a scale for each output channel; activations have a scale and a zero point for each
    tensor, from their smallest and largest values. On a processor that adds up int8 products in 16 bits, weights have
    7 bits, so that sums do not saturate; the file is then right on other processors as well.

    Args:
        file: The float32 file.
        out: The int8 file.
        data: The calibration inputs.
        is_entry: Whether its input is images: the first layer then stays in float32.

    Returns:
        Its layers.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    model = onnx.load(file)
    nodes = nodes_of_onnx(model)
    kept = first_layers(nodes) if is_entry else []
    with _quiet(''):  # it recommends a preprocessing meant for other exporters' files
        quantize_static(model, str(out), _Reader(model.graph.input[0].name, data), quant_format=QuantFormat.QDQ,
                        per_channel=True, reduce_range=sums_of_int8_saturate(),
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                        op_types_to_quantize=_ONNX_INT8, nodes_to_exclude=kept,
                        # else it keeps all outputs of all inputs until the end
                        extra_options=dict(CalibStridedMinMax=1))
    kinds = {node.name: node.op_type for node in model.graph.node}
    return _layers(nodes, [name for name, kind in kinds.items() if name in kept or kind not in _ONNX_INT8])


class _Reader:
    """Passes inputs to ONNX Runtime's calibration, which reads them in chunks."""

    def __init__(self, name: str, data: InputData) -> None:
        self.name, self.count = name, len(data)
        self.inputs, self.left = iter(data), 0

    def __len__(self) -> int:
        return self.count

    def set_range(self, start_index: int, end_index: int) -> None:
        """Set the range of the next inputs, which always follows the last one."""
        self.left = end_index - start_index

    def get_next(self) -> Optional[Dict[str, np.ndarray]]:
        """The next input by name; None at the end."""
        if not self.left:
            return None
        self.left -= 1
        return {self.name: next(self.inputs)}


def quantize_openvino(file: Path,
                      out: Path,
                      data: InputData,
                      is_entry: bool,
                      drop: Optional[Drop] = None,
                      max_drop: float = 0.) -> Layers:
    """Write the int8 file of a float32 OpenVINO file with NNCF's post-training quantisation.

    Weights are symmetric, with a scale for each output channel; activations have a scale for each tensor, and a zero
    point if their range is asymmetric with both signs: from their smallest and largest values.

    Args:
        file: The float32 file.
        out: The int8 file.
        data: The calibration inputs.
        is_entry: Whether its input is images: the first layer then stays in float32.
        drop: Use NNCF's accuracy-aware mode, which reverts layers to float32, the most important first, until this drop
            is small enough. Defaults to None: not used.
        max_drop: Largest accepted drop. Defaults to 0.

    Returns:
        Its layers.
    """
    nncf, openvino = _nncf(), require('openvino')
    model = openvino_core().read_model(str(file))
    nodes = nodes_of_openvino(model)
    kept = first_layers(nodes) if is_entry else []
    advanced = nncf.AdvancedQuantizationParameters(
        # By default a range is the mean of the images' ranges, which clips rare values: here, objects.
        activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX,
        disable_bias_correction=True)  # it does not improve the maps, and harms the box head
    common: Dict[str, Any] = dict(
        preset=nncf.QuantizationPreset.MIXED, subset_size=len(data),
        # In float32, a residual addition is fused into the convolution before it, and a norm's output is exact.
        ignored_scope=nncf.IgnoredScope(names=kept, types=['Add', 'Subtract', 'Multiply', 'Divide'], validate=False))
    with _quiet('nncf'), _one_core():
        if drop is None:
            quantized = nncf.quantize(model, nncf.Dataset(data), advanced_parameters=advanced, **common)
        else:
            ranked = [x for x, _ in zip(data, range(_RANKED))]
            quantized = nncf.quantize_with_accuracy_control(
                model, nncf.Dataset(data), nncf.Dataset(ranked), _Validation(drop), max_drop=max_drop,
                drop_type=nncf.DropType.ABSOLUTE, advanced_quantization_parameters=advanced, **common)
    openvino.save_model(quantized, str(out), compress_to_fp16=False)
    out.write_text(re.sub(r'>\s+<', '><', out.read_text(encoding='utf-8')), encoding='utf-8')  # a fifth is indentation
    # The weights of the other layers are rounded before they are used.
    return _layers(nodes, [
        op.get_friendly_name() for op in quantized.get_ordered_ops()
        if op.get_input_size() > 1 and op.input_value(1).get_node().get_type_name() == 'Constant'])


class _Validation:
    """Callback for NNCF: the accuracy of a compiled model, and its outputs for some inputs, to rank layers."""

    def __init__(self, drop: Drop) -> None:
        self.drop = drop

    def __call__(self, model: Any, inputs: Iterable[np.ndarray]) -> Any:
        outputs = [[np.array(output) for output in model(x).values()] for x in inputs]
        return 1 - self.drop(OpenVinoModel.of_compiled(model)), outputs  # NNCF divides by it


def _layers(nodes: Sequence[Node], in_float32: Collection[str]) -> Layers:
    names = [node.name for node in nodes if node.is_layer]
    return Layers([name for name in names if name not in in_float32], [name for name in names if name in in_float32])


def _nncf() -> Any:
    """NNCF with its usage reports switched off."""
    with _environment('NNCF_CI', '1'):  # read once, on import
        return require('nncf')


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Within it, all OpenVINO cores are one: NNCF makes several, and would destroy them in an order that crashes."""
    openvino, core = require('openvino'), openvino_core()
    before = openvino.Core, openvino.compile_model
    openvino.Core = lambda: core
    openvino.compile_model = lambda model, device_name='CPU', config=None: core.compile_model(
        model, device_name, config or {})
    try:
        yield
    finally:
        openvino.Core, openvino.compile_model = before


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Within it, a logger reports errors only."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
