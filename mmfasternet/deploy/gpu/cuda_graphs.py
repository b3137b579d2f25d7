"""Replays functions of tensors as CUDA graphs on a GPU: all their kernels with one launch."""

import functools
from collections import OrderedDict
from typing import Any, Callable, List, NamedTuple, Sequence, Set, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfasternet.compat import compiled_call, plain_call, set_compiled_call

_WARMUP = 3  # calls before a recording, in which libraries choose their kernels and Inductor compiles
#: Recordings of one function; each holds memory, and a dataset may have images of any size.
MAX_RECORDINGS = 32

Size = Tuple[int, int]


class GraphPool:
    """Memory of graphs that run one after another: they share it, and read each other's outputs without a copy."""

    def __init__(self) -> None:
        self.handle = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None
        self._owned: Set[int] = set()

    def own(self, tree: Any) -> None:
        """Mark tensors as having a fixed address."""
        self._owned.update(x.data_ptr() for x in tensors_of(tree))

    def disown(self, tree: Any) -> None:
        """Undo :meth:`own` for tensors."""
        self._owned.difference_update(x.data_ptr() for x in tensors_of(tree))

    def owns(self, x: Tensor) -> bool:
        """Whether a tensor has a fixed address."""
        return x.data_ptr() in self._owned


class _Recording(NamedTuple):
    inputs: List[Tensor]
    outputs: Any
    replay: Callable[[], None]


class Graph:
    """A function of tensors, recorded as a CUDA graph on its first call for each shape of its inputs.

    The function must not wait for the GPU, and the sizes of its outputs must
    depend only on the sizes of its inputs. Its outputs are in memory that the
    next call with the same shapes overwrites. The weights that it reads must
    not be moved.

    Args:
        function: Takes and returns tensors, or lists and tuples of them.
        pool: Its memory. Inputs in this pool are read in place, others are
            copied to where the graph reads them.
    """

    def __init__(self, function: Callable[..., Any], pool: GraphPool) -> None:
        self.function = function
        self.pool = pool
        self._recordings: OrderedDict[Any, _Recording] = OrderedDict()

    def __call__(self, *inputs: Any) -> Any:
        """Return the function's outputs."""
        given = tensors_of(inputs)
        key = tuple((x.shape, x.dtype, x.stride(), x.data_ptr() if self.pool.owns(x) else None) for x in given)
        with torch.cuda.device_of(given[0]):
            if key not in self._recordings:
                if len(self._recordings) >= MAX_RECORDINGS:
                    self.pool.disown(self._recordings.popitem(last=False)[1].outputs)  # the least recently used
                self._recordings[key] = self._recorded(inputs)
            self._recordings.move_to_end(key)
            recording = self._recordings[key]
            for place, x in zip(recording.inputs, given):
                if place is not x:
                    place.copy_(x)
            recording.replay()
        return recording.outputs

    def _recorded(self, inputs: Any) -> _Recording:
        with torch.inference_mode(False), torch.no_grad():  # a later call may not use inference mode
            places = _mapped(inputs, lambda x: x if self.pool.owns(x) else x.clone())
            outputs, replay = record(lambda: self.function(*places), self.pool.handle)
        self.pool.own(outputs)
        return _Recording(tensors_of(places), outputs, replay)


def record(function: Callable[[], Any], pool: Any = None) -> Tuple[Any, Callable[[], None]]:
    """Record a function without arguments as a CUDA graph, on the current device.

    Returns:
        Its outputs, and a function that recomputes them.
    """
    stream = _stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARMUP):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads, such as those of data loaders, continue meanwhile.
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode='thread_local'):
        outputs = function()
    return outputs, graph.replay


@functools.cache
def _stream(device: int) -> Any:
    """One stream for all recordings of a device: memory is shared within a stream."""
    return torch.cuda.Stream(device)


class GraphedCall:
    """Replaces a module's call, including hooks and compilation, with a replay.

    Args:
        module: The module, which is called with a tensor or a tuple of them.
        pool: Memory of its graphs.
        sizes: Heights and widths that images are padded to first, with zeros
            on the right and below: the first size they fit in; larger ones are
            not padded. Defaults to none.
    """

    def __init__(self, module: nn.Module, pool: GraphPool, sizes: Sequence[Size] = ()) -> None:
        self.compiled = compiled_call(module)
        self.graph = Graph(self.compiled or plain_call(module), pool)
        self.sizes = tuple(sizes)

    def __call__(self, x: Any) -> Any:
        return self.graph(padded(x, self.sizes) if isinstance(x, Tensor) else x)


def replay_calls(module: nn.Module, pool: GraphPool, sizes: Sequence[Size] = ()) -> None:
    """Replay a module's calls, in place; copies of the module are not affected."""
    remove_replay(module)
    set_compiled_call(module, GraphedCall(module, pool, sizes))


def remove_replay(module: nn.Module) -> None:
    """Undo :func:`replay_calls`, in place."""
    call = compiled_call(module)
    if isinstance(call, GraphedCall):
        set_compiled_call(module, call.compiled)


def padded(images: Tensor, sizes: Sequence[Size]) -> Tensor:
    """Images ``(N, C, H, W)``, padded to the first of some sizes that they fit in."""
    height, width = images.shape[2:]
    size = size_that_holds((height, width), sizes)
    return images if size == (height, width) else F.pad(images, (0, size[1] - width, 0, size[0] - height))


def size_that_holds(size: Size, sizes: Sequence[Size]) -> Size:
    """The first of some sizes that a size fits in; else the size itself."""
    return next((other for other in sizes if size[0] <= other[0] and size[1] <= other[1]), size)


def tensors_of(tree: Any) -> List[Tensor]:
    """The tensors of nested lists and tuples."""
    if isinstance(tree, Tensor):
        return [tree]
    return [x for item in tree for x in tensors_of(item)] if isinstance(tree, (list, tuple)) else []


def _mapped(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(tree, Tensor):
        return function(tree)
    return type(tree)(_mapped(item, function) for item in tree) if isinstance(tree, (list, tuple)) else tree
