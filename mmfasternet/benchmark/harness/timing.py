"""Timing and memory of calls."""

import ctypes
import gc
import time
from contextlib import suppress
from typing import Any, Callable, Optional

import torch

#: Warm-up ends when as many calls in a row have not been faster than all before them by more than the tolerance.
WARMUP_PATIENCE = 3
WARMUP_TOLERANCE = 0.05
MAX_WARMUP = 30


def warm_up(function: Callable[[], Any], device: torch.device) -> int:
    """Call until it does not get faster, at most :data:`MAX_WARMUP` times.

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
    """Seconds of one call, from idle device to idle device; the mean of several consecutive calls."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    _synchronize(device)
    return (time.perf_counter() - start) / calls


def peak_memory(function: Callable[[], Any], device: torch.device) -> Optional[float]:
    """Peak memory of one call in addition to what was allocated before it, in 10^6 bytes.

    On a GPU it is what PyTorch allocates; on Linux it is resident memory of the process, after the allocator has
    returned what earlier calls left (as glibc's does; with other allocators, reused memory does not count). None on
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
            clear.write('5')  # resets the peak to the current resident memory
        before = _resident('VmRSS')
        function()
        return max(_resident('VmHWM') - before, 0) / 1e6
    except OSError:
        return None


def _resident(key: str) -> int:
    with open('/proc/self/status', encoding='utf-8') as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f'{key}:'))


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
