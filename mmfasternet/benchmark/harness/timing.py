"""Timing of callables, with the conditions it was taken under."""

import ctypes
import gc
import math
import platform
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch

from mmfasternet.deploy.tf32 import tf32
from mmfasternet.errors import ArgumentError

#: Warm-up ends when as many calls in a row have not been faster than all before them by more than the tolerance.
WARMUP_PATIENCE = 3
WARMUP_TOLERANCE = 0.05
MAX_WARMUP = 30
_DERIVED = ('median_ms', 'p10_ms', 'p90_ms', 'runs', 'images_per_second', 'part_medians_ms')


@dataclass(frozen=True)
class LatencyRecord:
    """Latency of one call, over many, and the conditions.

    Attributes:
        name: What was measured.
        times_ms: Duration of each timed call in milliseconds; of batches on a
            GPU the mean of several calls that follow each other.
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
        weights: ``'random'``, or the checkpoint's path.
        images: ``'random'``, or the images' folder.
        memory_mb: What a call takes at its peak on top of what is there
            before it (weights among it), in 10^6 bytes; None where the system
            does not tell, or CUDA graphs keep their memory between calls.
        parts_ms: Durations of its parts in milliseconds, in calls of their
            own between the timed ones, by the name of the part.
        error: Why it can't be measured, such as ``'out of memory'``; its
            figures are NaN then.
        sessions: When the runs began that its calls were timed in.
    """

    name: str
    times_ms: Tuple[float, ...]
    warmup: int
    batch_size: int
    input_size: str
    dtype: str
    memory_format: str
    form: str
    device: str
    threads: int
    versions: Dict[str, str]
    weights: str = 'random'
    images: str = 'random'
    memory_mb: Optional[float] = None
    parts_ms: Dict[str, Tuple[float, ...]] = field(default_factory=dict)
    error: Optional[str] = None
    sessions: Tuple[str, ...] = ()

    @property
    def median_ms(self) -> float:
        return self._percentile(50)

    @property
    def p10_ms(self) -> float:
        return self._percentile(10)

    @property
    def p90_ms(self) -> float:
        return self._percentile(90)

    def _percentile(self, percent: float) -> float:
        return float(np.percentile(self.times_ms, percent)) if self.times_ms else math.nan

    @property
    def runs(self) -> int:
        return len(self.times_ms)

    @property
    def images_per_second(self) -> float:
        """Throughput by the median."""
        return self.batch_size * 1e3 / self.median_ms

    @property
    def part_medians_ms(self) -> Dict[str, float]:
        return {part: float(np.median(times)) for part, times in self.parts_ms.items()}

    @property
    def parts_over_total(self) -> float:
        """Sum of the parts over the whole of the same round, the median of all rounds; NaN without parts."""
        sums = np.sum(list(self.parts_ms.values()), axis=0)
        if not self.parts_ms or not self.times_ms:
            return math.nan
        wholes = np.reshape(self.times_ms, (len(sums), -1)).mean(axis=1)  # there may be several calls in a round
        return float(np.median(sums / wholes))

    @property
    def conditions(self) -> Dict[str, Any]:
        """All but the name and what was measured: records that agree in it can be compared."""
        return {key: value for key, value in asdict(self).items()
                if key not in ('name', 'times_ms', 'warmup', 'memory_mb', 'parts_ms', 'error', 'sessions')}

    def to_dict(self) -> Dict[str, Any]:
        """For JSON: the fields and what follows from them."""
        return {**{key: getattr(self, key) for key in _DERIVED}, **asdict(self)}

    @classmethod
    def from_dict(cls, content: Dict[str, Any]) -> 'LatencyRecord':
        """What :meth:`to_dict` gave.

        Raises:
            KeyError: If a field is missing.
        """
        known = {f.name: content[f.name] for f in fields(cls) if f.name in content or f.name != 'sessions'}
        known['times_ms'], known['sessions'] = tuple(known['times_ms']), tuple(known.get('sessions', ()))
        known['parts_ms'] = {part: tuple(times) for part, times in known['parts_ms'].items()}
        return cls(**known)

    def __str__(self) -> str:
        return (f'{self.name}: {self.median_ms:.1f} ms (p10 {self.p10_ms:.1f}, p90 {self.p90_ms:.1f}; {self.runs} runs '
                f'after {self.warmup}) at ' + describe(self.conditions))


def runs_of(records: Sequence[LatencyRecord]) -> str:
    """What the figures of a suite are, in words."""
    calls = f'medians of {max(record.runs for record in records)} calls'
    sessions = {record.sessions for record in records if not record.error}
    if len(sessions) > 1:
        return f'{calls} in runs of different times, so that ratios mean less than in one interleaved run'
    count = max(len(max(sessions, default=())), 1)
    return f'{calls} in one interleaved run' if count == 1 else f'{calls} in {count} interleaved runs'


def failures(records: Sequence[LatencyRecord]) -> List[str]:
    """A line for each record that could not be taken."""
    return [f'{record.name} was not measured: {record.error}' for record in records if record.error]


def describe(conditions: Dict[str, Any]) -> str:
    """A record's conditions in words."""
    c = conditions
    return (f"batch {c['batch_size']}, {c['input_size']} pixels, {c['dtype']}, {c['memory_format']}, {c['form']}, "
            f"weights: {c['weights']}, images: {c['images']}, {describe_machine(c)}")


def describe_machine(conditions: Dict[str, Any]) -> str:
    """A record's processor and libraries in words."""
    versions = ', '.join(f'{name} {version}' for name, version in conditions['versions'].items())
    return f"on {conditions['device']} with {conditions['threads']} threads, {versions}"


def measure(function: Callable[[], Any],
            name: str,
            device: torch.device,
            input_size: str,
            batch_size: int = 1,
            dtype: torch.dtype = torch.float32,
            memory_format: str = 'NCHW',
            form: str = 'eager',
            warmup: Optional[int] = None,
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
        warmup: Calls that are not timed. Defaults to None: until it gets no
            faster; see :func:`warm_up`.
        runs: Calls that are timed. Defaults to 20.

    Raises:
        ArgumentError: If ``runs`` is not positive.
    """
    if runs < 1:
        raise ArgumentError(f'runs must be at least 1, got {runs}')
    if warmup is None:
        warmup = warm_up(function, device)
    else:
        for _ in range(warmup):
            function()
    memory = peak_memory(function, device)
    seconds = [time_call(function, device) for _ in range(runs)]
    return make_record(seconds, name, device, input_size, warmup + 1, batch_size, dtype, memory_format, form, memory)


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
            time_call(function, device)
            if turn:
                times.extend(time_call(function, device) for _ in range(calls))
    return seconds


def warm_up(function: Callable[[], Any], device: torch.device) -> int:
    """Call until it gets no faster, or :data:`MAX_WARMUP` times.

    Returns:
        The number of calls.
    """
    fastest, last_gain = float('inf'), 0
    for call in range(1, MAX_WARMUP + 1):
        seconds = time_call(function, device)
        if seconds < fastest * (1 - WARMUP_TOLERANCE):
            last_gain = call
        fastest = min(fastest, seconds)
        if call - last_gain >= WARMUP_PATIENCE:
            return call
    return MAX_WARMUP


def time_call(function: Callable[[], Any], device: torch.device, calls: int = 1) -> float:
    """Seconds of one call, from an idle device to an idle device; the mean of several that follow each other."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    _synchronize(device)
    return (time.perf_counter() - start) / calls


def peak_memory(function: Callable[[], Any], device: torch.device) -> Optional[float]:
    """What one call takes at its peak on top of what is there before it, in 10^6 bytes.

    On a GPU it is what PyTorch allocates there; on Linux the process'
    resident memory, after the allocator has given back what earlier calls
    left (glibc's does; with others, what is reused of it is left out). None on
    other systems.
    """
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    try:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        with open('/proc/self/clear_refs', 'w') as clear:
            clear.write('5')  # sets the peak back to what is resident now
        before = _resident('VmRSS')
        function()
        return max(_resident('VmHWM') - before, 0) / 1e6
    except OSError:
        return None


def _resident(key: str) -> int:
    with open('/proc/self/status', encoding='utf-8') as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f'{key}:'))


def make_record(seconds: Sequence[float],
                name: str,
                device: torch.device,
                input_size: str,
                warmup: int,
                batch_size: int = 1,
                dtype: torch.dtype = torch.float32,
                memory_format: str = 'NCHW',
                form: str = 'eager',
                memory_mb: Optional[float] = None,
                weights: str = 'random',
                images: str = 'random') -> LatencyRecord:
    """The record of timed calls; see :class:`LatencyRecord` for the arguments."""
    return LatencyRecord(
        name=name,
        times_ms=tuple(second * 1e3 for second in seconds),
        warmup=warmup,
        batch_size=batch_size,
        input_size=input_size,
        dtype=str(dtype).removeprefix('torch.'),
        memory_format=memory_format,
        form=form,
        device=_device_name(device, dtype),
        threads=torch.get_num_threads(),
        versions=loaded_versions(),
        weights=weights,
        images=images,
        memory_mb=memory_mb)


def loaded_versions() -> Dict[str, str]:
    """Versions of the libraries that are loaded and can weigh on a latency."""
    names = ('torch', 'mmcv', 'mmengine', 'mmdet', 'mmpretrain', 'timm', 'onnxruntime', 'openvino')
    versions = {name: sys.modules[name].__version__ for name in names if name in sys.modules}
    if torch.cuda.is_available() and torch.backends.cudnn.is_available():
        versions['cudnn'] = str(torch.backends.cudnn.version())  # torch's own names CUDA's
    return versions


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _device_name(device: torch.device, dtype: torch.dtype) -> str:
    if device.type == 'cuda':
        name = torch.cuda.get_device_name(device)
        if dtype != torch.float32 or torch.cuda.get_device_capability(device) < (8, 0):
            return name
        # What PyTorch calls float32 is computed with fewer bits where these are set.
        rounded = [what for what, flag in zip(('convolutions', 'matrix products'), tf32()) if flag]
        return f"{name} (TF32 in {' and '.join(rounded)})" if rounded else name
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as info:
            return next(line.split(':', 1)[1].strip() for line in info if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
