"""Several models measured side by side, in turns, with records that survive an interruption."""

import gc
import json
import re
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Sequence, Union

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmfasternet.benchmark.harness.timing import (
    LatencyRecord,
    describe,
    loaded_versions,
    make_record,
    peak_memory,
    time_call,
    warm_up,
)
from mmfasternet.compat import recompilations
from mmfasternet.deploy.gpu.cuda_graphs import record
from mmfasternet.errors import ArgumentError, UserError
from mmfasternet.files import write_atomically

_IN_A_ROW = 10  # batches on a GPU, for their throughput: else small networks wait for the CPU
CUDA_GRAPHS = 'CUDA graphs'  # in the form of a record
#: A call that gives the durations of its parts in milliseconds.
TimedParts = Callable[[], Dict[str, float]]


@dataclass(frozen=True)
class Conditions:
    """What an entry is timed under, beside the machine; see :class:`LatencyRecord`."""
    input_size: str
    batch_size: int = 1
    dtype: torch.dtype = torch.float32
    memory_format: str = 'NCHW'
    form: str = 'eager'
    weights: str = 'random'
    images: str = 'random'


@dataclass(frozen=True)
class Subject:
    """What is timed, ready to be called.

    Attributes:
        function: Called without arguments.
        parts: A call that is timed part by part, beside those of ``function``.
        advance: Called before each round, to bring in its input.
        keeps_memory: Whether its memory stays allocated between calls, as that
            of CUDA graphs does: what a call takes can't be told then.
    """
    function: Callable[[], Any]
    parts: Optional[TimedParts] = None
    advance: Callable[[], Any] = lambda: None
    keeps_memory: bool = False


@dataclass(frozen=True)
class Entry:
    """A line of a suite: its name, also that of its file, its conditions, and how it is built."""
    name: str
    conditions: Conditions
    build: Callable[[], Subject]


def replayed(entry: Entry) -> Entry:
    """The entry with its call recorded as a CUDA graph: the time of the GPU, without the launches of each kernel.

    Its call must not wait for the GPU, and takes the same input each time.
    """

    def build() -> Subject:
        function = entry.build().function
        with torch.no_grad():
            _, replay = record(function)
        # The function holds the memory that the graph reads.
        return Subject(lambda: (replay(), function)[0], keeps_memory=True)

    return replace(entry, conditions=replace(entry.conditions, form=f'{entry.conditions.form}, {CUDA_GRAPHS}'),
                   build=build)


def run_suite(entries: Sequence[Entry],
              device: torch.device,
              rounds: int = 10,
              calls: int = 1,
              out: Optional[Union[str, Path]] = None) -> List[LatencyRecord]:
    """Time all entries in turns, so that drift of the machine's speed hits all alike.

    In each round each entry is called once without being timed, which brings
    its data back into the caches, then ``calls`` times, then once part by part
    if it has parts. On a GPU, a timed call of more than
    one image and without parts is the mean of ten that follow each other, for
    the throughput.

    Args:
        entries: What to measure; names must differ.
        device: The device they work on.
        rounds: Rounds of the run. Defaults to 10.
        calls: Timed calls of each entry in a round. Defaults to 1.
        out: Folder for ``NAME.json``, with dashes for what is not a letter or
            a digit of the name, written anew after each turn. Records
            that are there already count: an interrupted suite goes on where it
            was. Defaults to None, no files.

    Returns:
        The records, in the order of the entries. One that its device can't
        run, for want of memory or of an operator for its type, says so in its
        ``error``, and the others go on without it.

    Raises:
        ArgumentError: If ``rounds``, ``calls`` or a batch size is not
            positive, or a name is there twice.
        UserError: If a record in ``out`` can't be read, or was taken under
            other conditions, before anything is built; or if none of the
            entries can be measured.
    """
    batches = [('the batch size', entry.conditions.batch_size) for entry in entries]
    for argument, value in (('rounds', rounds), ('calls', calls), *batches):
        if value < 1:
            raise ArgumentError(f'{argument} must be at least 1, got {value}')
    names = [entry.name for entry in entries]
    session = datetime.now(timezone.utc).isoformat(timespec='seconds')
    if len({_path('', name) for name in names}) < len(names):
        raise ArgumentError(f'each name must be there once, by letters and digits: {names}')
    records = {entry.name: _started(entry, device, out) for entry in entries}
    try:
        _run(entries, device, rounds, calls, out, records, session)
    except KeyboardInterrupt:
        if out:
            raise KeyboardInterrupt(f"records are kept in '{out}', and the same command goes on from them") from None
        raise
    if all(record.error for record in records.values()):
        raise UserError(f"'{names[0]}' can't be measured: {records[names[0]].error}")
    return [records[name] for name in names]


def _run(entries: Sequence[Entry], device: torch.device, rounds: int, calls: int, out: Optional[Union[str, Path]],
         records: Dict[str, LatencyRecord], session: str) -> None:
    left = {name: rounds - record.runs // calls for name, record in records.items()}
    waiting = [entry for entry in entries if left[entry.name] > 0]
    compiled = sum('compile' in entry.conditions.form for entry in entries)
    with torch.no_grad(), room_for_compiled(compiled), _progress() as progress:
        task = progress.add_task('building', total=len(waiting))
        subjects: Dict[str, Subject] = {}
        for entry in waiting:
            progress.update(task, description=f'building {entry.name}')
            with _failure_noted(entry.name, records, subjects):
                subjects[entry.name] = entry.build()
                records[entry.name] = _warmed_up(records[entry.name], subjects[entry.name], device, out)
            progress.advance(task)
        progress.remove_task(task)
        task = progress.add_task('measuring', total=sum(left[entry.name] for entry in waiting))
        for turn in range(max(left.values())):
            for name in list(subjects):
                if turn < left[name]:
                    progress.update(task, description=f'measuring {name}')
                    with _failure_noted(name, records, subjects):
                        records[name] = _extended(records[name], subjects[name], device, calls, session)
                        if out:
                            write_record(records[name], out)
                    progress.advance(task)


def write_record(record: LatencyRecord, folder: Union[str, Path]) -> None:
    """Write ``NAME.json``, whole or not at all."""
    path = _path(folder, record.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record.to_dict(), indent=1) + '\n').encode())


def read_record(folder: Union[str, Path], name: str) -> Optional[LatencyRecord]:
    """Read ``NAME.json``; None if it is not there.

    Raises:
        UserError: If it is no record.
    """
    path = _path(folder, name)
    try:
        return LatencyRecord.from_dict(json.loads(path.read_text(encoding='utf-8')))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"'{path}' is no record of a latency: remove it, or name another folder by --out") from None


def _path(folder: Union[str, Path], name: str) -> Path:
    return Path(folder) / f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', name)}.json"


def _started(entry: Entry, device: torch.device, out: Optional[Union[str, Path]]) -> LatencyRecord:
    """The record that is there already, or one without any timed call yet."""
    c = entry.conditions
    fresh = make_record([], entry.name, device, c.input_size, 0, c.batch_size, c.dtype, c.memory_format, c.form,
                        weights=c.weights, images=c.images)
    found = read_record(out, entry.name) if out else None
    if found and out:
        _check_comparable(found, fresh, out)
    return found or fresh


def _check_comparable(found: LatencyRecord, fresh: LatencyRecord, out: Union[str, Path]) -> None:
    if not comparable(found, fresh):
        raise UserError(f"'{_path(out, found.name)}' was measured under other conditions "
                        f'({describe(found.conditions)}): name another folder by --out')


@contextmanager
def _failure_noted(name: str, records: Dict[str, LatencyRecord], subjects: Dict[str, Subject]) -> Iterator[None]:
    """Within it, a RuntimeError ends the subject and not the suite.

    PyTorch says by these what a device has no memory or no operator for.
    """
    reason = None
    try:
        yield
    except RuntimeError as error:
        reason = 'out of memory' if isinstance(error, torch.OutOfMemoryError) else str(error).strip().partition('\n')[0]
    if reason:  # only now the traceback has let go of the subject, and its memory is free
        subjects.pop(name, None)
        records[name] = replace(records[name], times_ms=(), parts_ms={}, memory_mb=None, error=reason)
        gc.collect()
        torch.cuda.empty_cache()


def room_for_compiled(count: int) -> ContextManager[Any]:
    """Within it, so many models may be compiled: past its limit Dynamo runs without a word what it was to compile."""
    if not count:
        return nullcontext()
    return recompilations(8 * count)


def _warmed_up(record: LatencyRecord, subject: Subject, device: torch.device,
               out: Optional[Union[str, Path]]) -> LatencyRecord:
    fresh = replace(record, versions=loaded_versions())  # building has loaded more libraries
    _check_comparable(record, fresh, out or '.')
    warmup = warm_up(subject.function, device)
    if subject.keeps_memory:
        return replace(fresh, warmup=warmup, memory_mb=None)
    return replace(fresh, warmup=warmup + 1, memory_mb=peak_memory(subject.function, device))


def comparable(first: LatencyRecord, second: LatencyRecord) -> bool:
    """Whether two records were taken under the same conditions, as far as both tell."""
    a, b = dict(first.conditions), dict(second.conditions)
    versions, others = a.pop('versions'), b.pop('versions')
    return a == b and all(versions[name] == others[name] for name in versions.keys() & others.keys())


def _extended(record: LatencyRecord, subject: Subject, device: torch.device, calls: int,
              session: str) -> LatencyRecord:
    subject.advance()
    on_gpu = device.type == 'cuda'
    time_call(subject.function, device)
    in_a_row = _IN_A_ROW if on_gpu and record.batch_size > 1 and not subject.parts else 1
    times = [time_call(subject.function, device, in_a_row) * 1e3 for _ in range(calls)]
    parts = subject.parts() if subject.parts else {}
    earlier = record.sessions or (('unknown', ) if record.times_ms else ())
    sessions = earlier if session in earlier else (*earlier, session)
    return replace(record, sessions=sessions, times_ms=(*record.times_ms, *times),
                   parts_ms={part: (*record.parts_ms.get(part, ()), time) for part, time in parts.items()})


def _progress() -> Progress:
    """On the terminal only: on stderr, so that tables can be piped."""
    return Progress(TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                    console=Console(stderr=True), transient=True)
