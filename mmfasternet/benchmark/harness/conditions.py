"""Conditions of a latency: the work, the form of the model, the machine."""

import platform
import sys
from dataclasses import dataclass, field, fields, replace
from typing import Any, Dict, Optional, Tuple

import torch

from mmfasternet.deploy.tf32 import tf32

_LIBRARIES = ('torch', 'mmcv', 'mmengine', 'mmdet', 'mmpretrain', 'timm', 'onnxruntime', 'openvino')

# None if an early record does not tell.
_MAY_BE_UNKNOWN = ('weights', 'images')


@dataclass(frozen=True)
class Conditions:
    """What must agree to compare two latencies.

    Attributes:
        sizes: Heights and widths of the images in pixels, each once.
        batch_size: Images per call.
        dtype: Type of the images.
        memory_format: Memory format of the images, ``'NCHW'`` or ``'NHWC'``.
        form: Form of the model, such as ``'eager'``.
        algorithm: Algorithm of FasterNet's blocks, if the form chooses one;
            else None.
        compiled: Whether networks are compiled.
        graphs: Whether a GPU replays CUDA graphs.
        weights: ``'random'``, or the checkpoint's path; None if not recorded.
        images: ``'random'``, or the images' folder; None if not recorded.
        device: Name of the processor; this and the following describe the
            machine, and are set by :meth:`on`.
        tf32: The float32 operations that the processor rounds to TF32: of
            ``'convolutions'`` and ``'matrix products'``.
        threads: Threads that PyTorch may use on a CPU.
        versions: Versions of the libraries by name.
    """
    sizes: Tuple[Tuple[int, int], ...]
    batch_size: int = 1
    dtype: torch.dtype = torch.float32
    memory_format: str = 'NCHW'
    form: str = 'eager'
    algorithm: Optional[str] = None
    compiled: bool = False
    graphs: bool = False
    weights: Optional[str] = 'random'
    images: Optional[str] = 'random'
    device: str = ''
    tf32: Tuple[str, ...] = ()
    threads: int = 0
    versions: Dict[str, str] = field(default_factory=dict)

    def on(self, device: torch.device) -> 'Conditions':
        """The same work on this machine, with its current settings."""
        rounded = _rounded(device) if self.dtype == torch.float32 else ()
        return replace(self, device=name_of(device), tf32=rounded, threads=torch.get_num_threads(),
                       versions=loaded_versions())

    def comparable(self, other: 'Conditions') -> bool:
        """Whether both agree in all that both record: one may list libraries that the other has not loaded yet."""
        shared = self.versions.keys() & other.versions.keys()
        return all(self.versions[name] == other.versions[name] for name in shared) and all(
            getattr(self, f.name) == getattr(other, f.name) or f.name == 'versions'
            or f.name in _MAY_BE_UNKNOWN and None in (getattr(self, f.name), getattr(other, f.name))
            for f in fields(self))

    def same_form(self, other: 'Conditions') -> bool:
        """Whether the models have the same form and type."""
        return all(getattr(self, name) == getattr(other, name) for name in ('form', 'compiled', 'graphs', 'dtype'))

    @property
    def input_size(self) -> str:
        """The sizes as a string, such as ``'800x1280'``."""
        return ', '.join(f'{height}x{width}' for height, width in self.sizes) or '-'

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix('torch.')

    @property
    def full_form(self) -> str:
        """Form, with how it is run."""
        return self.form + (', compile' if self.compiled else '') + (', CUDA graphs' if self.graphs else '')

    @property
    def processor(self) -> str:
        """Name of the processor, with what it rounds to TF32."""
        return f"{self.device} (TF32 in {' and '.join(self.tf32)})" if self.tf32 else self.device

    @property
    def machine(self) -> str:
        """Description of processor and libraries."""
        versions = ', '.join(f'{name} {version}' for name, version in self.versions.items())
        return f'on {self.processor} with {self.threads} threads, {versions}'

    def describe(self, form: bool = True) -> str:
        """Description of all conditions.

        Args:
            form: Whether to include type, memory format and form. Defaults to
                True.
        """
        parts = [f'batch {self.batch_size}', f'{self.input_size} pixels']
        if form:
            parts += [self.dtype_name, self.memory_format, self.full_form]
        parts += [f'{name}: {value}' for name, value in (('weights', self.weights), ('images', self.images)) if value]
        return ', '.join([*parts, self.machine])

    def to_dict(self) -> Dict[str, Any]:
        """A dict for JSON."""
        return {**vars(self), 'dtype': self.dtype_name}

    @classmethod
    def from_dict(cls, content: Dict[str, Any]) -> 'Conditions':
        """Create from the output of :meth:`to_dict`.

        Raises:
            KeyError: If a field is missing.
        """
        found = {f.name: content[f.name] for f in fields(cls)}
        return cls(**{**found, 'sizes': tuple((height, width) for height, width in found['sizes']),
                      'dtype': getattr(torch, found['dtype']), 'tf32': tuple(found['tf32'])})


def loaded_versions() -> Dict[str, str]:
    """Versions of the loaded libraries that can affect a latency."""
    versions = {name: sys.modules[name].__version__ for name in _LIBRARIES if name in sys.modules}
    if torch.cuda.is_available() and torch.backends.cudnn.is_available():
        versions['cudnn'] = str(torch.backends.cudnn.version())  # torch's own names CUDA's
    return versions


def name_of(device: torch.device) -> str:
    """The manufacturer's name of a processor."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as info:
            return next(line.split(':', 1)[1].strip() for line in info if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _rounded(device: torch.device) -> Tuple[str, ...]:
    """Where PyTorch's float32 is computed with fewer bits."""
    if device.type != 'cuda' or torch.cuda.get_device_capability(device) < (8, 0):
        return ()
    return tuple(what for what, flag in zip(('convolutions', 'matrix products'), tf32()) if flag)
