"""The best a machine can do: reference values for latencies."""

import os
import platform
import statistics
import subprocess
import time
from typing import Any, Callable, Dict

import torch
import torch.nn.functional as F

from mmfasternet.benchmark.harness.conditions import loaded_versions
from mmfasternet.benchmark.harness.timing import time_call
from mmfasternet.deploy.tf32 import set_tf32

_NVIDIA_SMI = ('driver_version', 'clocks.sm', 'clocks.max.sm', 'clocks.mem', 'power.limit', 'temperature.gpu')
_LAUNCHES = 2000


def machine_facts(device: torch.device, small: bool = False) -> Dict[str, Any]:
    """The processor, its clocks and libraries, and its two ceilings: bytes and operations per second.

    Args:
        device: Device to measure.
        small: Whether to use small maps and matrices, for a trial run.

    Returns:
        By name: GB/s of a copy, bytes read and written; TFLOP/s,
        multiplications and additions, of a matrix product and of a 3x3
        convolution in each type; microseconds from one launch to the next.
    """
    facts: Dict[str, Any] = {'processor': _processor(device), 'python': platform.python_version(),
                             'cores': os.cpu_count(), 'threads': torch.get_num_threads(), **loaded_versions()}
    if device.type == 'cuda':
        facts.update(_nvidia_smi(device))
    facts['copy, GB/s'] = _copied((1 << 24) if small else (1 << 29 if device.type == 'cuda' else 1 << 26), device)
    side = 256 if small else (8192 if device.type == 'cuda' else 2048)
    batch = 1 if small or device.type == 'cpu' else 32
    for name, dtype in _types(device).items():
        if device.type == 'cuda':
            set_tf32('on' if name == 'TF32' else 'off')
        facts[f'matrix product in {name}, TFLOP/s'] = _multiplied(side, dtype, device)
        facts[f'3x3 convolution in {name}, TFLOP/s'] = _convolved(batch, dtype, device)
    if device.type == 'cuda':
        set_tf32('convolutions')
        x = torch.rand(8, 8, device=device)
        facts['launch, us'] = 1e6 * time_call(x.relu, device, _LAUNCHES)
    return facts


def _copied(numbers: int, device: torch.device) -> float:
    source = torch.rand(numbers, device=device)
    target = torch.empty_like(source)
    return 8e-9 * numbers / _seconds(lambda: target.copy_(source), device)


def _multiplied(side: int, dtype: torch.dtype, device: torch.device) -> float:
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2e-12 * side**3 / _seconds(lambda: a @ b, device)


def _convolved(batch: int, dtype: torch.dtype, device: torch.device) -> float:
    x = torch.randn(batch, 256, 56, 56, device=device).to(dtype, memory_format=torch.channels_last)
    w = torch.randn(256, 256, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)
    return 2e-12 * batch * 9 * 256**2 * 56**2 / _seconds(lambda: F.conv2d(x, w, padding=1), device)


def _types(device: torch.device) -> Dict[str, torch.dtype]:
    if device.type == 'cpu':
        return {'float32': torch.float32, 'bfloat16': torch.bfloat16}
    types = {'float32': torch.float32, 'TF32': torch.float32, 'float16': torch.float16}
    return {**types, 'bfloat16': torch.bfloat16} if torch.cuda.is_bf16_supported(including_emulation=False) else types


def _seconds(function: Callable[[], Any], device: torch.device) -> float:
    with torch.no_grad():
        time_call(function, device, 3)
        return statistics.median(time_call(function, device, 3) for _ in range(5))


def _processor(device: torch.device) -> str:
    if device.type == 'cuda':
        properties = torch.cuda.get_device_properties(device)
        return (f'{properties.name}, {properties.multi_processor_count} multiprocessors, '
                f'{properties.total_memory / 2**30:.0f} GiB, compute capability {properties.major}.{properties.minor}')
    return platform.processor() or platform.machine()


def _nvidia_smi(device: torch.device) -> Dict[str, str]:
    """Driver, clocks and power after some work; empty if the tool is missing."""
    x = torch.rand(4096, 4096, device=device)
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:  # the clocks go up
        time_call(lambda: x @ x, device)
    try:
        # By UUID or name: its numbers ignore CUDA_VISIBLE_DEVICES.
        gpu = f'GPU-{torch.cuda.get_device_properties(device).uuid}'
        line = subprocess.run(['nvidia-smi', f'--id={gpu}', f"--query-gpu={','.join(_NVIDIA_SMI)}",
                               '--format=csv,noheader'], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(zip(_NVIDIA_SMI, (value.strip() for value in line.strip().split(','))))
