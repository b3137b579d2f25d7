"""Measures several models in turns, with records that survive an interruption."""

import gc
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Sequence, Tuple, Type, Union

import torch

from mmfasternet.benchmark.harness.conditions import Conditions, loaded_versions
from mmfasternet.benchmark.harness.records import LatencyRecord, RecordFile
from mmfasternet.benchmark.harness.timing import peak_memory, time_call, warm_up
from mmfasternet.compat import recompilations
from mmfasternet.deploy.gpu.cuda_graphs import record
from mmfasternet.deploy.gpu.triton_kernels import TRITON_ERRORS
from mmfasternet.errors import ArgumentError, UserError

#: Batches on a GPU are timed in a row, for their throughput: else small networks wait for the CPU.
_IN_A_ROW, _SECONDS_IN_A_ROW = 10, 0.25
#: What ends an entry, but not the suite.
_FAILURES: Tuple[Type[Exception], ...] = (RuntimeError, UserError, *TRITON_ERRORS)
#: A call that gives the durations of its parts in milliseconds.
TimedParts = Callable[[], Dict[str, float]]


@dataclass(frozen=True)
class Subject:
    """A call to time, ready to run.

    Attributes:
        function: Called without arguments.
        parts: A call that is timed part by part, in addition to those of
            ``function``.
        advance: Called before each round, to provide its input.
        keeps_memory: Whether its memory stays allocated between calls, as with
            CUDA graphs: the memory of a call is then unknown.
        operations: Multiplications and additions of a call, for the record.
        difference: Difference from the original model, for the record.
    """
    function: Callable[[], Any]
    parts: Optional[TimedParts] = None
    advance: Callable[[], Any] = lambda: None
    keeps_memory: bool = False
    operations: Optional[int] = None
    difference: Optional[float] = None


@dataclass(frozen=True)
class Entry:
    """An entry of a suite.

    Attributes:
        name: Its name.
        conditions: Its conditions, without the machine.
        build: Builds it.
        kind: What is measured, for the record.
        model: Name of the model or operator, for the record.
        digest: Distinguishes it from other models of the same name, such as
            :func:`~mmfasternet.engine.config.config_digest` of its config.
            Defaults to None: the name is enough.
    """
    name: str
    conditions: Conditions
    build: Callable[[], Subject]
    kind: str = ''
    model: str = ''
    digest: Optional[str] = None


def replayed(entry: Entry) -> Entry:
    """The entry with its call recorded as a CUDA graph: the time of the GPU, without kernel launches.

    Its call must not wait for the GPU, and gets the same input each time.
    """

    def build() -> Subject:
        subject = entry.build()
        with torch.no_grad():
            _, replay = record(subject.function)
        # The function holds the memory that the graph reads.
        return replace(subject, function=lambda: (replay(), subject.function)[0], keeps_memory=True)

    return replace(entry, conditions=replace(entry.conditions, graphs=True), build=build)


def run_suite(entries: Sequence[Entry],
              device: torch.device,
              rounds: int = 10,
              calls: int = 1,
              out: Optional[Union[str, Path]] = None) -> List[LatencyRecord]:
    """Time all entries in turns, so that drift of the machine's speed affects all equally.

    In each round each entry is called once untimed, which brings its data back
    into the caches, then ``calls`` times, then once part by part if it has
    parts. On a GPU, a timed call with more than one image and without parts is
    the mean of several consecutive calls, for the throughput: as many as take
    a quarter of a second, at most ten.

    Args:
        entries: What to measure; names must be unique.
        device: The device they work on.
        rounds: Rounds of the run. Defaults to 10.
        calls: Timed calls of each entry in a round. Defaults to 1.
        out: Folder for ``records.jsonl``, rewritten atomically after each
            turn. Existing records count: an interrupted suite continues where
            it was. Defaults to None, no file.

    Returns:
        The records, in the order of the entries. An entry that can't be built,
        or that its device can't run because memory or an operator for its type
        is missing, has the reason in ``error``; the others continue without
        it.

    Raises:
        ArgumentError: If ``rounds``, ``calls`` or a batch size is not
            positive, or a name occurs twice.
        UserError: If a record in ``out`` can't be read, or was taken under
            other conditions (checked before anything is built); or if none of
            the entries can be measured.
    """
    batches = [('the batch size', entry.conditions.batch_size) for entry in entries]
    for argument, value in (('rounds', rounds), ('calls', calls), *batches):
        if value < 1:
            raise ArgumentError(f'{argument} must be at least 1, got {value}')
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise ArgumentError(f'names must be unique, got {names}')
    file = RecordFile(out, names)
    records = {entry.name: _started(entry, device, file, rounds * calls) for entry in entries}
    try:
        with file.locked():
            _run(entries, device, rounds, calls, file, records)
    except KeyboardInterrupt:
        if out:
            raise KeyboardInterrupt(f"records are kept in '{out}': run the same command to continue") from None
        raise
    if all(record.error for record in records.values()):
        raise UserError(f"'{names[0]}' can't be measured: {records[names[0]].error}")
    return [records[name] for name in names]


def _run(entries: Sequence[Entry], device: torch.device, rounds: int, calls: int, file: RecordFile,
         records: Dict[str, LatencyRecord]) -> None:
    session = datetime.now(timezone.utc).isoformat(timespec='seconds')
    left = {name: rounds - record.runs // calls for name, record in records.items()}
    waiting = [entry for entry in entries if left[entry.name] > 0]
    compiled = sum(len(entry.conditions.sizes) for entry in entries if entry.conditions.compiled)
    with torch.no_grad(), room_for_compiled(compiled), progress_bar() as progress:
        task = progress.add_task('building', total=len(waiting))
        subjects: Dict[str, Subject] = {}
        for entry in waiting:
            name = entry.name
            progress.update(task, description=f'building {name}')
            with _failure_noted(name, records, subjects, file):
                subjects[name] = entry.build()
            # Building may have loaded more libraries.
            conditions = replace(records[name].conditions, versions=loaded_versions())
            _check_comparable(records[name], conditions, file)
            records[name] = replace(records[name], conditions=conditions)
            if name in subjects:
                with _failure_noted(name, records, subjects, file):
                    records[name] = _warmed_up(records[name], subjects[name], device)
            progress.advance(task)
        progress.remove_task(task)
        task = progress.add_task('measuring', total=sum(left[entry.name] for entry in waiting))
        for turn in range(max(left.values())):
            for name in list(subjects):
                if turn < left[name]:
                    progress.update(task, description=f'measuring {name}')
                    with _failure_noted(name, records, subjects, file):
                        records[name] = _extended(records[name], subjects[name], device, calls, session)
                        file.keep(records[name])
                    progress.advance(task)


def _started(entry: Entry, device: torch.device, file: RecordFile, calls: int) -> LatencyRecord:
    """The existing record, or a new one without timed calls."""
    fresh = LatencyRecord(entry.name, entry.conditions.on(device), entry.kind, entry.model, digest=entry.digest)
    found = file.records.get(entry.name)
    if found:
        if (found.kind, found.model) != (entry.kind, entry.model):
            raise UserError(f"'{found.name}' in '{file.path}' is of {found.model or 'another model'}, not of "
                            f'{entry.model}: name another folder with --out')
        if None not in (found.digest, entry.digest) and found.digest != entry.digest:
            raise UserError(f"'{found.name}' in '{file.path}' is of another config named {entry.model or entry.name}, "
                            'or of an earlier version of this config: name another folder with --out')
        _check_comparable(found, fresh.conditions, file)
        if found.summary and found.runs < calls:
            raise UserError(f"'{found.name}' in '{file.path}' can't be continued, because its calls were not recorded "
                            'one by one: name another folder with --out')
    return replace(found, error=None) if found else fresh  # failed entries are tried again


def _check_comparable(found: LatencyRecord, conditions: Conditions, file: RecordFile) -> None:
    if not found.conditions.comparable(conditions):
        raise UserError(f"'{found.name}' in '{file.path}' was measured under other conditions "
                        f'({found.conditions.describe()}): name another folder with --out')


@contextmanager
def _failure_noted(name: str, records: Dict[str, LatencyRecord], subjects: Dict[str, Subject],
                   file: RecordFile) -> Iterator[None]:
    """Within it, a RuntimeError, UserError or error of Triton ends the subject but not the suite, and is recorded.

    PyTorch raises RuntimeError if a device lacks memory or an operator.
    """
    reason = None
    try:
        yield
    except _FAILURES as error:
        reason = 'out of memory' if isinstance(error, torch.OutOfMemoryError) else str(error).strip().partition('\n')[0]
    if reason:  # only now the traceback no longer holds the subject, and its memory is free
        subjects.pop(name, None)
        # On disk, the calls until then are kept.
        file.keep(replace(file.records.get(name, records[name]), error=reason))
        records[name] = replace(records[name], times_ms=(), parts_ms={}, memory_mb=None, error=reason)
        gc.collect()
        torch.cuda.empty_cache()


def room_for_compiled(count: int) -> ContextManager[Any]:
    """Raise Dynamo's limit of compilations within it: past the limit, Dynamo silently runs code uncompiled."""
    if not count:
        return nullcontext()
    return recompilations(8 * count)


def _warmed_up(record: LatencyRecord, subject: Subject, device: torch.device) -> LatencyRecord:
    warmup, memory = warm_up(subject.function, device), None
    if not subject.keeps_memory:
        memory, warmup = peak_memory(subject.function, device), warmup + 1
    return replace(record, warmup=warmup, memory_mb=memory, operations=subject.operations,
                   difference=subject.difference)


def _extended(record: LatencyRecord, subject: Subject, device: torch.device, calls: int,
              session: str) -> LatencyRecord:
    subject.advance()
    seconds, in_a_row = time_call(subject.function, device), 1
    if device.type == 'cuda' and record.conditions.batch_size > 1 and not subject.parts:
        in_a_row = min(max(int(_SECONDS_IN_A_ROW / seconds), 1), _IN_A_ROW)
    times = [time_call(subject.function, device, in_a_row) * 1e3 for _ in range(calls)]
    parts = subject.parts() if subject.parts else {}
    earlier = record.sessions or (('unknown', ) if record.times_ms else ())
    sessions = earlier if session in earlier else (*earlier, session)
    return replace(record, sessions=sessions, times_ms=(*record.times_ms, *times),
                   parts_ms={part: (*record.parts_ms.get(part, ()), time) for part, time in parts.items()})


def progress_bar() -> Any:
    """Shown only on a terminal, on stderr, so that tables can be piped."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    return Progress(TextColumn('{task.description}', markup=False), BarColumn(), MofNCompleteColumn(),
                    TimeRemainingColumn(), console=Console(stderr=True), transient=True)
