"""How many CPUs this process may use: PyTorch counts those of the machine, and ignores a container's quota.

It imports the standard library only: ``tools/setup_env.py`` runs it as a file, before there is an environment.
"""

import math
import os
from pathlib import Path, PurePosixPath
from typing import Iterator, List, Optional, Union

# Mount points of the CPU controller: of cgroup v2, also next to v1, and of v1.
_V2 = ('sys/fs/cgroup', 'sys/fs/cgroup/unified')
_V1 = ('sys/fs/cgroup/cpu', 'sys/fs/cgroup/cpu,cpuacct', 'sys/fs/cgroup/cpuacct,cpu')


def usable_cpus(root: Union[str, Path] = '/') -> int:
    """The number of CPUs that the process may use, at least one: those it may run on, or its CPU quota if that is less.

    The quota is the smallest one of its control group and the parent groups,
    rounded up: ``docker --cpus=1.5`` gives two.

    Args:
        root: Folder with ``proc`` and ``sys``. Defaults to ``'/'``.
    """
    affinity = getattr(os, 'sched_getaffinity', None)  # Linux has it
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(Path(root)))]))


def sums_of_int8_saturate(root: Union[str, Path] = '/') -> bool:
    """Whether products of int8 are added up in 16 bits, as x86 processors without VNNI do.

    Args:
        root: Folder with ``proc``. Defaults to ``'/'``.
    """
    flags = next((line for line in (_read(Path(root) / 'proc/cpuinfo') or '').splitlines()
                  if line.startswith('flags')), '').split()  # of x86; ARM's line has another name
    return bool(flags) and not {'avx512_vnni', 'avx_vnni'} & set(flags)


def is_limited(root: Union[str, Path] = '/') -> bool:
    """Whether the process may use fewer CPUs than the machine has."""
    return usable_cpus(root) < (os.cpu_count() or 1)


def _quotas(root: Path) -> Iterator[float]:
    """The quotas of this process, in CPUs."""
    for line in (_read(root / 'proc/self/cgroup') or '').splitlines():
        controllers, _, group = line.partition(':')[2].partition(':')
        if not controllers:
            for folder in _folders(root, _V2, group):
                quota, _, period = (_read(folder / 'cpu.max') or '').partition(' ')
                yield from _quota(quota, period)
        elif 'cpu' in controllers.split(','):
            for folder in _folders(root, _V1, group):
                yield from _quota(_read(folder / 'cpu.cfs_quota_us'), _read(folder / 'cpu.cfs_period_us'))


def _folders(root: Path, mounts: tuple, group: str) -> List[Path]:
    """The folders of a group and its parents. A container may see its own group as the root, under any name."""
    path = PurePosixPath(*(part for part in PurePosixPath(group.lstrip('/')).parts if part != '..'))
    return [root / mount / each for mount in mounts for each in (path, *path.parents)]


def _quota(quota: Optional[str], period: Optional[str]) -> List[float]:
    """The quota in CPUs; empty if there is none, which is ``max`` in v2 and -1 in v1."""
    try:
        share = float(quota or 'max') / float(period or 0)
    except (ValueError, ZeroDivisionError):
        return []
    return [share] if share > 0 else []


def _read(path: Path) -> Optional[str]:
    try:
        return path.read_text().strip()
    except OSError:
        return None
