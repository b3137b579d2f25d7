"""Timing of a callable, with the conditions it was taken under."""

import platform
import sys
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
import torch

from mmfasternet.errors import ArgumentError


@dataclass(frozen=True)
class LatencyRecord:
    """Latency of one call, over many, and the conditions.

    Attributes:
        name: What was measured.
        median_ms: Median in milliseconds.
        p10_ms: 10th percentile in milliseconds.
        p90_ms: 90th percentile in milliseconds.
        runs: Number of timed calls.
        warmup: Number of calls before them that were not timed.
        batch_size: Images per call.
        input_size: Height and width of the images in pixels, such as
            ``'800x1280'``; several where they differ.
        dtype: Data type of the images.
        memory_format: Memory format of the images.
        form: Form of the model, such as ``'eager'``.
        device: Name of the processor.
        threads: Threads PyTorch may use on a CPU.
        versions: Versions of the libraries by name.
    """

    name: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    warmup: int
    batch_size: int
    input_size: str
    dtype: str
    memory_format: str
    form: str
    device: str
    threads: int
    versions: Dict[str, str]

    def __str__(self) -> str:
        return (f'{self.name}: {self.median_ms:.1f} ms (p10 {self.p10_ms:.1f}, p90 {self.p90_ms:.1f}; {self.runs} runs '
                f'after {self.warmup}) at batch {self.batch_size}, {self.input_size} pixels, '
                f'{self.dtype}, {self.memory_format}, {self.form}, '
                f'on {self.device} with {self.threads} threads, '
                + ', '.join(f'{name} {version}' for name, version in self.versions.items()))


def measure(function: Callable[[], Any],
            name: str,
            device: torch.device,
            input_size: str,
            batch_size: int = 1,
            dtype: torch.dtype = torch.float32,
            memory_format: str = 'NCHW',
            form: str = 'eager',
            warmup: int = 5,
            runs: int = 20) -> LatencyRecord:
    """Time a callable by the wall clock, waiting for the device around every call.

    Args:
        function: What to time; called without arguments.
        name: Its name.
        device: The device it works on.
        input_size: Size of the images, for the record, as are the following.
        batch_size: Images per call. Defaults to 1.
        dtype: Data type of the images. Defaults to float32.
        memory_format: ``'NCHW'`` or ``'NHWC'``. Defaults to ``'NCHW'``.
        form: Form of the model. Defaults to ``'eager'``.
        warmup: Calls that are not timed. Defaults to 5.
        runs: Calls that are timed. Defaults to 20.

    Raises:
        ArgumentError: If ``runs`` is not positive.
    """
    if runs < 1:
        raise ArgumentError(f'runs must be at least 1, got {runs}')
    seconds = [_seconds(function, device) for _ in range(warmup + runs)][warmup:]
    return make_record(seconds, name, device, input_size, warmup, batch_size, dtype, memory_format, form)


def measure_interleaved(functions: Sequence[Callable[[], Any]],
                        device: torch.device,
                        rounds: int = 20,
                        calls: int = 1) -> List[List[float]]:
    """Time several callables in turns, so that drift of the machine's speed hits all alike.

    In each round each of them is called once without being timed, which
    brings its data back into the caches, and then ``calls`` times. A first
    round is not timed at all.

    Args:
        functions: What to time; called without arguments.
        device: The device they work on.
        rounds: Timed rounds. Defaults to 20.
        calls: Timed calls in each round. Defaults to 1.

    Returns:
        Seconds of the timed calls of each.

    Raises:
        ArgumentError: If ``rounds`` or ``calls`` is not positive.
    """
    for name, value in (('rounds', rounds), ('calls', calls)):
        if value < 1:
            raise ArgumentError(f'{name} must be at least 1, got {value}')
    seconds: List[List[float]] = [[] for _ in functions]
    for turn in range(rounds + 1):
        for function, times in zip(functions, seconds):
            _seconds(function, device)
            if turn:
                times.extend(_seconds(function, device) for _ in range(calls))
    return seconds


def make_record(seconds: Sequence[float],
                name: str,
                device: torch.device,
                input_size: str,
                warmup: int,
                batch_size: int = 1,
                dtype: torch.dtype = torch.float32,
                memory_format: str = 'NCHW',
                form: str = 'eager') -> LatencyRecord:
    """The record of timed calls; see :class:`LatencyRecord` for the arguments."""
    p10, median, p90 = np.percentile(np.array(seconds) * 1e3, [10, 50, 90]).tolist()
    return LatencyRecord(
        name=name,
        median_ms=median,
        p10_ms=p10,
        p90_ms=p90,
        runs=len(seconds),
        warmup=warmup,
        batch_size=batch_size,
        input_size=input_size,
        dtype=str(dtype).removeprefix('torch.'),
        memory_format=memory_format,
        form=form,
        device=_device_name(device),
        threads=torch.get_num_threads(),
        versions=_versions())


def _versions() -> Dict[str, str]:
    """Versions of the libraries that are loaded and can weigh on a latency."""
    names = ('torch', 'mmcv', 'mmengine', 'mmdet', 'onnxruntime', 'openvino')
    return {name: sys.modules[name].__version__ for name in names if name in sys.modules}


def _seconds(function: Callable[[], Any], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    function()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _device_name(device: torch.device) -> str:
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as info:
            return next(line.split(':', 1)[1].strip() for line in info if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
