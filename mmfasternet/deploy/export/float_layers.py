"""Finds the layers of an exported file that stay in float32 when the others become int8."""

from typing import Any, Iterable, List, NamedTuple, Sequence, Set

_ONNX_LAYERS = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')
_OPENVINO_LAYERS = ('Convolution', 'GroupConvolution', 'ConvolutionBackpropData', 'MatMul')


class Node(NamedTuple):
    """A node of a graph: its name, whether it has weights, its inputs and its outputs."""
    name: str
    is_layer: bool
    inputs: Sequence[str]
    outputs: Sequence[str]


def first_layers(nodes: Iterable[Node]) -> List[str]:
    """The layers with weights that have no other layer with weights before them.

    Args:
        nodes: The nodes of a graph in topological order.
    """
    behind: Set[str] = set()  # values that a layer has had a part in
    first = []
    for node in nodes:
        later = any(value in behind for value in node.inputs)
        if node.is_layer and not later:
            first.append(node.name)
        if node.is_layer or later:
            behind.update(node.outputs)
    return first


def nodes_of_onnx(model: Any) -> List[Node]:
    """The nodes of an ONNX model."""
    constants = {weight.name for weight in model.graph.initializer}
    return [Node(node.name, node.op_type in _ONNX_LAYERS and node.input[1] in constants, node.input, node.output)
            for node in model.graph.node]


def nodes_of_openvino(model: Any) -> List[Node]:
    """The nodes of an OpenVINO model."""
    nodes = []
    for op in model.get_ordered_ops():
        sources = [value.get_node() for value in op.input_values()]
        is_layer = op.get_type_name() in _OPENVINO_LAYERS and sources[1].get_type_name() == 'Constant'
        name = op.get_friendly_name()
        nodes.append(Node(name, is_layer, [source.get_friendly_name() for source in sources], [name]))
    return nodes
