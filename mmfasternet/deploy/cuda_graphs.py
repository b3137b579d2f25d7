"""Functions of tensors that a GPU replays as CUDA graphs: all their kernels by one launch."""

import functools
from collections import OrderedDict
from typing import Any, Callable, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WARMUP = 3  # calls before a recording: libraries choose their kernels in them, and Inductor compiles
#: Recordings of one function; each holds memory, and a data set may have images of any size.
MAX_RECORDINGS = 32

Size = Tuple[int, int]


class _Recording(NamedTuple):
    inputs: Tuple[Tensor, ...]
    outputs: Any
    replay: Callable[[], None]


class Graph:
    """A function of tensors, recorded as a CUDA graph at its first call for each shape of its inputs.

    The function must not wait for the GPU, and the sizes of its outputs must
    follow from those of its inputs. What it gives lies in memory that the
    next call for the same shapes overwrites.

    Args:
        function: Called as ``function(*inputs, *kept)``.
        pool: Of graphs that run one after another, the memory that they
            share; see :func:`torch.cuda.graph_pool_handle`. Defaults to None,
            memory of its own.
    """

    def __init__(self, function: Callable[..., Any], pool: Any = None) -> None:
        self.function = function
        self.pool = pool
        self._recordings: OrderedDict[Any, _Recording] = OrderedDict()

    def __call__(self, *inputs: Tensor, kept: Sequence[Any] = ()) -> Any:
        """Give the function's outputs.

        Args:
            inputs: Tensors, copied to where the graph reads them.
            kept: Outputs of another graph, read where they are.
        """
        key = (tuple((x.shape, x.dtype, x.stride()) for x in inputs), tuple(x.data_ptr() for x in _tensors(kept)))
        if key not in self._recordings:
            if len(self._recordings) >= MAX_RECORDINGS:
                self._recordings.popitem(last=False)
            self._recordings[key] = self._recorded(inputs, kept)
        recording = self._recordings[key]
        for place, x in zip(recording.inputs, inputs):
            place.copy_(x)
        recording.replay()
        return recording.outputs

    def _recorded(self, inputs: Sequence[Tensor], kept: Sequence[Any]) -> _Recording:
        places = tuple(x.clone() for x in inputs)
        with torch.no_grad():
            outputs, replay = record(lambda: self.function(*places, *kept), self.pool)
        return _Recording(places, outputs, replay)


def record(function: Callable[[], Any], pool: Any = None) -> Tuple[Any, Callable[[], None]]:
    """Record a function without arguments as a CUDA graph.

    Returns:
        Its outputs, and what computes them anew.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARMUP):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads, such as those of data loaders, go on meanwhile.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode='thread_local'):
        outputs = function()
    return outputs, graph.replay


class GraphedCall:
    """Stands in a module's call, hooks and compilation included, and replays it.

    Args:
        call: The module's own call, of one tensor, or of the maps that the
            graph before gave.
        pool: Memory to share.
        sizes: Heights and widths that images are padded to before, with zeros
            on the right and below: the first one they fit in; larger ones
            stay as they are. Defaults to none.
    """

    def __init__(self, call: Callable[..., Any], pool: Any, sizes: Sequence[Size] = ()) -> None:
        self.graph = Graph(call, pool)
        self.sizes = tuple(sizes)

    def __call__(self, x: Any) -> Any:
        return self.graph(padded(x, self.sizes)) if isinstance(x, Tensor) else self.graph(kept=(x, ))


def replay_calls(module: nn.Module, pool: Any, sizes: Sequence[Size] = ()) -> None:
    """Have a module's calls be replayed, in place; a copy of the module is without it."""
    call = module._compiled_call_impl or functools.partial(type(module)._call_impl, module)
    module._compiled_call_impl = GraphedCall(call, pool, sizes)


def padded(images: Tensor, sizes: Sequence[Size]) -> Tensor:
    """Images ``(N, C, H, W)``, padded to the first of some sizes that holds them."""
    height, width = images.shape[2:]
    for size in sizes:
        if height <= size[0] and width <= size[1]:
            return images if size == (height, width) else F.pad(images, (0, size[1] - width, 0, size[0] - height))
    return images


def _tensors(tree: Any) -> Sequence[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    return [x for item in tree for x in _tensors(item)] if isinstance(tree, (list, tuple)) else []

