import os
import subprocess
import sys

import pytest

from mmfasternet import cpus
from mmfasternet.cpus import is_limited, sums_of_int8_saturate, usable_cpus
from tests.conftest import ROOT

HOST = 64


@pytest.fixture(autouse=True)
def host(monkeypatch):
    """A machine of 64 CPUs, which the process may run on all."""
    monkeypatch.setattr(cpus.os, 'sched_getaffinity', lambda process: set(range(HOST)), raising=False)
    monkeypatch.setattr(cpus.os, 'cpu_count', lambda: HOST)


def system(root, group, **files):
    """Write ``proc`` and ``sys``; the names of files are paths below /sys/fs/cgroup."""
    for path, text in {'proc/self/cgroup': group, **{f'sys/fs/cgroup/{path}': text for path, text in files.items()}
                       }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + '\n')
    return root


V1 = '5:memory:/a\n4:cpu,cpuacct:/docker/1f\n1:name=systemd:/a\n0::/a'
CASES = {
    'no cgroups': ('', {}, HOST),
    'v2 in a container': ('0::/', {'cpu.max': '200000 100000'}, 2),
    'v2, rounded up': ('0::/', {'cpu.max': '150000 100000'}, 2),
    'v2, less than one': ('0::/', {'cpu.max': '10000 100000'}, 1),
    'v2, more than there are': ('0::/', {'cpu.max': '12800000 100000'}, HOST),
    'v2, no quota': ('0::/', {'cpu.max': 'max 100000'}, HOST),
    'v2, its own group': ('0::/a/b', {'a/b/cpu.max': '300000 100000', 'a/cpu.max': 'max 100000'}, 3),
    'v2, a group around it': ('0::/a/b', {'a/b/cpu.max': '800000 100000', 'a/cpu.max': '500000 100000'}, 5),
    'v2, another group': ('0::/a/b', {'c/cpu.max': '100000 100000', 'a/b/c/cpu.max': '100000 100000'}, HOST),
    'v2, a container that sees the path outside': ('0::/../../docker/1f', {'cpu.max': '400000 100000'}, 4),
    'v2 beside v1': ('0::/a', {'unified/a/cpu.max': '200000 100000'}, 2),
    'v1 in a container': (V1, {'cpu,cpuacct/cpu.cfs_quota_us': '250000', 'cpu,cpuacct/cpu.cfs_period_us': '100000'}, 3),
    'v1, its own group': (V1, {'cpu/docker/1f/cpu.cfs_quota_us': '100000', 'cpu/docker/1f/cpu.cfs_period_us': '50000',
                               'cpu/cpu.cfs_quota_us': '-1', 'cpu/cpu.cfs_period_us': '100000'}, 2),
    'v1, no quota': (V1, {'cpu/cpu.cfs_quota_us': '-1', 'cpu/cpu.cfs_period_us': '100000'}, HOST),
    'v1, no period': (V1, {'cpu/cpu.cfs_quota_us': '100000', 'cpu/cpu.cfs_period_us': '0'}, HOST),
    'v1 of another controller': ('5:memory:/', {'cpu/cpu.cfs_quota_us': '100000',
                                                'cpu/cpu.cfs_period_us': '100000'}, HOST),
    'nothing that can be read': ('nonsense\n0::', {'cpu.max': 'nonsense'}, HOST),
}


@pytest.mark.parametrize('group, files, expected', CASES.values(), ids=CASES)
def test_the_smallest_quota_counts(tmp_path, group, files, expected):
    root = system(tmp_path, group, **files)
    assert usable_cpus(root) == expected and is_limited(root) == (expected < HOST)


def test_cpus_that_it_may_run_on_count(tmp_path, monkeypatch):
    monkeypatch.setattr(cpus.os, 'sched_getaffinity', lambda process: {3, 5})
    assert usable_cpus(tmp_path) == 2 and is_limited(tmp_path)
    assert usable_cpus(system(tmp_path, '0::/', **{'cpu.max': '100000 100000'})) == 1
    assert usable_cpus(system(tmp_path, '0::/', **{'cpu.max': '400000 100000'})) == 2


def test_it_is_true_here():
    """Of this very system, against taskset, which says on how many CPUs a process may run."""
    command = f'import sys; sys.path.insert(0, {str(ROOT / "mmfasternet")!r}); import cpus; print(cpus.usable_cpus())'
    one = next(iter(os.sched_getaffinity(0) & set(range(HOST))))
    result = subprocess.run(['taskset', '-c', str(one), sys.executable, '-c', command], capture_output=True, text=True)
    assert result.stdout == '1\n', result.stderr


@pytest.mark.parametrize('line, expected', [
    ('flags\t\t: fpu avx2 avx512f', True),
    ('flags\t\t: fpu avx2 avx512f avx512_vnni', False),
    ('flags\t\t: fpu avx2 avx_vnni', False),
    ('Features\t: fp asimd asimddp', False),  # ARM's
])
def test_sums_of_int8_saturate_on_x86_without_vnni(tmp_path, line, expected):
    (tmp_path / 'proc').mkdir()
    (tmp_path / 'proc' / 'cpuinfo').write_text(f'processor\t: 0\n{line}\nbugs\t\t: avx_vnni\n')
    assert sums_of_int8_saturate(tmp_path) == expected
    assert not sums_of_int8_saturate(tmp_path / 'nowhere')
