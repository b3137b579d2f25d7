"""What a GPU does in a call: how long it works, and with which kernels."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Tuple

import torch


@dataclass(frozen=True)
class GpuWork:
    """Work of a GPU in one call, averaged over several.

    Attributes:
        busy_ms: Milliseconds in which kernels and copies run.
        kernels: Number of kernels.
        longest: Names of the kernels with the largest total time, with their
            milliseconds and number.
    """
    busy_ms: float
    kernels: float
    longest: List[Tuple[str, float, float]]

    def to_dict(self) -> Dict[str, Any]:
        """A dict for JSON."""
        return vars(self)


def gpu_work(function: Callable[[], Any], count: int = 12, calls: int = 5) -> GpuWork:
    """Profile a call with PyTorch's profiler, after one call that is not profiled.

    Args:
        function: Called without arguments.
        count: How many kernels to list. Defaults to 12.
        calls: How many calls to profile. Defaults to 5.
    """
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.no_grad():
        function()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=activities) as profile:
            for _ in range(calls):
                function()
            torch.cuda.synchronize()
    times: Dict[str, List[float]] = defaultdict(list)
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation:  # spans of kernels
            times[event.name].append(event.time_range.elapsed_us() / 1e3)
    by_time = sorted(((name, sum(each) / calls, len(each) / calls) for name, each in times.items()),
                     key=lambda row: -row[1])
    return GpuWork(sum(row[1] for row in by_time), sum(row[2] for row in by_time), by_time[:count])
