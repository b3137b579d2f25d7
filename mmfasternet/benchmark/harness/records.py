"""Records of latencies, and the file of a suite that stores them."""

import fcntl
import json
import math
import os
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union

import numpy as np

from mmfasternet.benchmark.harness.conditions import Conditions
from mmfasternet.errors import UserError
from mmfasternet.files import remove_unfinished, write_atomically

Parsed = TypeVar('Parsed')
#: Records of a suite in its folder, one JSON object a line.
RECORDS = 'records.jsonl'
_DERIVED = ('median_ms', 'p10_ms', 'p90_ms', 'runs', 'images_per_second', 'part_medians_ms')


class Summary(NamedTuple):
    """What an early release recorded of its calls."""
    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


@dataclass(frozen=True)
class LatencyRecord:
    """Latency of a call, measured over many, and its conditions.

    Attributes:
        name: Name in its suite.
        conditions: Conditions of the measurement.
        kind: What is measured, which selects the report.
        model: Name of the model or operator, whatever its form.
        times_ms: Duration of each timed call in milliseconds; for batches on a
            GPU, the mean of several consecutive calls.
        warmup: Number of untimed calls before them.
        memory_mb: Peak memory of a call in addition to what was allocated
            before it (such as weights), in 10^6 bytes; None if the system does
            not tell, or CUDA graphs keep their memory between calls.
        operations: Multiplications and additions of a call; None if they were
            not counted.
        difference: Largest difference from the original model in float32,
            relative to the largest value of each output; None if not checked.
        parts_ms: Durations of its parts in milliseconds, from separate calls
            between the timed ones, by the name of the part.
        error: Why it can't be measured, such as ``'out of memory'``; its
            figures are then NaN, and times are those before it failed.
        sessions: Start times of the runs in which its calls were timed.
        digest: Distinguishes its model from others of the same name, as in
            :class:`~mmfasternet.benchmark.harness.suite.Entry`; None if not
            recorded.
        summary: Replaces ``times_ms`` if single calls were not recorded.
            Defaults to None.
    """

    name: str
    conditions: Conditions
    kind: str = ''
    model: str = ''
    times_ms: Tuple[float, ...] = ()
    warmup: int = 0
    memory_mb: Optional[float] = None
    operations: Optional[int] = None
    difference: Optional[float] = None
    parts_ms: Dict[str, Tuple[float, ...]] = field(default_factory=dict)
    error: Optional[str] = None
    sessions: Tuple[str, ...] = ()
    digest: Optional[str] = None
    summary: Optional[Summary] = None

    @property
    def median_ms(self) -> float:
        """In milliseconds; NaN, like the percentiles, if the measurement did not finish."""
        return self.summary.median_ms if self.summary else self._percentile(50)

    @property
    def p10_ms(self) -> float:
        return self.summary.p10_ms if self.summary else self._percentile(10)

    @property
    def p90_ms(self) -> float:
        return self.summary.p90_ms if self.summary else self._percentile(90)

    def _percentile(self, percent: float) -> float:
        return float(np.percentile(self.times_ms, percent)) if self.times_ms and not self.error else math.nan

    @property
    def runs(self) -> int:
        return self.summary.runs if self.summary else len(self.times_ms)

    @property
    def images_per_second(self) -> float:
        """Throughput, from the median."""
        return self.conditions.batch_size * 1e3 / self.median_ms

    @property
    def gflops(self) -> Optional[float]:
        """10^9 multiplications and additions per second, from the median; None if they were not counted."""
        return self.operations / self.median_ms / 1e6 if self.operations else None

    @property
    def part_medians_ms(self) -> Dict[str, float]:
        return {part: float(np.median(times)) for part, times in self.parts_ms.items()}

    @property
    def parts_over_total(self) -> float:
        """Sum of the parts over the complete call of the same round, median of all rounds; NaN without parts."""
        sums = np.sum(list(self.parts_ms.values()), axis=0)
        if not self.parts_ms or not self.times_ms:
            return math.nan
        totals = np.reshape(self.times_ms, (len(sums), -1)).mean(axis=1)  # a round may have several calls
        return float(np.median(sums / totals))

    def to_dict(self) -> Dict[str, Any]:
        """A dict for JSON: the fields and derived values."""
        return {**{key: getattr(self, key) for key in _DERIVED}, **vars(self), 'conditions': self.conditions.to_dict()}

    @classmethod
    def from_dict(cls, content: Dict[str, Any]) -> 'LatencyRecord':
        """Create from the output of :meth:`to_dict`; fields of later releases may be missing.

        Raises:
            KeyError: If conditions or times are missing.
            TypeError: If the name is missing.
        """
        known = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        return cls(**{**known,
                      'conditions': Conditions.from_dict(content['conditions']),
                      'times_ms': tuple(content['times_ms']),
                      'parts_ms': {part: tuple(times) for part, times in known.get('parts_ms', {}).items()},
                      'sessions': tuple(known.get('sessions', ())),
                      'summary': Summary(*known['summary']) if known.get('summary') else None})

    def __str__(self) -> str:
        return (f'{self.name}: {self.median_ms:.1f} ms (p10 {self.p10_ms:.1f}, p90 {self.p90_ms:.1f}; {self.runs} runs '
                f'after {self.warmup}) at {self.conditions.describe()}')


class RecordFile:
    """The records of a suite, stored in its folder and rewritten atomically with each new one.

    Args:
        folder: Folder of the suite. Without one, nothing is read or written.
        names: Names of its records in order; other existing records are kept
            after them.

    Raises:
        UserError: If a line of the file is not a record.
    """

    def __init__(self, folder: Optional[Union[str, Path]], names: Sequence[str] = ()) -> None:
        self.path = Path(folder) / RECORDS if folder else None
        self.records = {record.name: record for record in read_records(folder)} if folder else {}
        self._lines = {name: _line(self.records[name]) if name in self.records else ''
                       for name in [*names, *self.records]}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within it, no other process may write the file, because records would be lost.

        Raises:
            UserError: If another process does.
        """
        with locked_folder(self.path.parent) if self.path else nullcontext():
            yield

    def keep(self, record: LatencyRecord) -> None:
        """Replace the record of the same name, also on disk."""
        self.records[record.name] = record
        self._lines[record.name] = _line(record)
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.path.parent)  # left by a killed process
            write_atomically(self.path, ''.join(self._lines.values()).encode())


@contextmanager
def locked_folder(folder: Union[str, Path], taken: Optional[str] = None) -> Iterator[int]:
    """Within it, no other process may write to a folder, which is made if missing.

    Args:
        folder: The folder.
        taken: Error message if another process does. Defaults to None: that it
            writes records there.

    Yields:
        The descriptor of the lock: a process that inherits it holds the lock
        as well.

    Raises:
        UserError: If another process holds it.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(taken or f"another process is writing records to '{folder}': name another folder with "
                            '--out') from None
        yield opened
    finally:
        os.close(opened)  # unlocks it, unless another process has inherited it


def read_records(folder: Union[str, Path]) -> List[LatencyRecord]:
    """The records of a suite in order; empty if its folder has no file of them.

    Raises:
        UserError: If a line is not a record, or the folder holds records of an
            early release, in one file each.
    """
    path = Path(folder) / RECORDS
    if not path.exists():
        if any('"times_ms"' in other.read_text(encoding='utf-8', errors='replace')
               for other in Path(folder).glob('*.json')):
            raise UserError(f"'{folder}' holds records of an earlier release, in one file each: name another folder "
                            'with --out')
        return []
    return read_lines(path, LatencyRecord.from_dict, 'latency')


def read_lines(path: Path, parse: Callable[[Dict[str, Any]], Parsed], what: str) -> List[Parsed]:
    """Records from a file of JSON lines; empty if there is no file.

    Args:
        path: The file.
        parse: Creates a record from the content of a line.
        what: What the records are of, for the error.

    Raises:
        UserError: If a line is not a record.
    """
    records = []
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines() if path.exists() else (), 1):
        try:
            records.append(parse(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"line {number} of '{path}' is not a record of a {what}: remove it, or name another folder "
                            'with --out') from None
    return records


def runs_of(records: Sequence[LatencyRecord]) -> str:
    """A description of the figures of a suite."""
    calls = f'medians of {max(record.runs for record in records)} calls'
    sessions = {record.sessions for record in records if not record.error}
    if len(sessions) > 1:
        return f'{calls} in runs at different times, so ratios are less reliable than in one interleaved run'
    count = max(len(max(sessions, default=())), 1)
    return f'{calls} in one interleaved run' if count == 1 else f'{calls} in {count} interleaved runs'


def failures(records: Sequence[LatencyRecord]) -> List[str]:
    """A line for each failed measurement."""
    return [f'{record.name} was not measured: {record.error}' for record in records if record.error]


def _line(record: LatencyRecord) -> str:
    return json.dumps(record.to_dict()) + '\n'
