"""Reports on all results of :mod:`mmfasternet.benchmark.plan.run_all`, from its records."""

import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Tuple

from mmfasternet.benchmark.harness.records import RECORDS, LatencyRecord, read_records
from mmfasternet.benchmark.plan.run_all import STATE
from mmfasternet.benchmark.plan.steps import FACTS, GPU_WORK, R50, S, detector_configs
from mmfasternet.benchmark.reporting.report import Report, Table, write_page
from mmfasternet.benchmark.roofline import least_times
from mmfasternet.benchmark.subjects import classifiers, detectors, operators, partial_conv, training_steps
from mmfasternet.benchmark.subjects.forms import form_report
from mmfasternet.errors import UserError

PAGE = 'index.html'
Records = List[LatencyRecord]


def write_reports(out: Path) -> Path:
    """Write a report next to the records of each suite, and one page with all of them.

    Args:
        out: The folder of ``run_all``.

    Returns:
        The page.

    Raises:
        UserError: If it holds no records.
    """
    reports = [_machine_report(out)] if (out / FACTS).exists() else []
    for folder, records in _suites(out):
        try:
            report = _REPORTS[records[0].kind](records, folder, out)
        except UserError as error:  # a suite that was stopped early
            print(f'{folder}: {error}')
            continue
        report.write(folder)
        reports.append(_named(report, str(folder.relative_to(out))))
    if not reports:
        raise UserError(f"'{out}' holds no records: measure first, without --only-reports")
    return write_page('Measurements', reports, out / PAGE)


def summarize(out: Path) -> str:
    """Outcome of each step and results of the detectors, for the terminal."""
    lines = [f'{name}: {how}' for name, how in json.loads((out / STATE).read_text())['steps'].items()]
    for folder, records in _suites(out):
        for record in records:
            reference = next((other for other in records if record.model == S and other.model == R50
                              and other.conditions.comparable(record.conditions)), None)
            if reference:
                lines.append(f'{folder.relative_to(out)}: {record.name}: {record.median_ms:.2f} ms, '
                             f'{record.median_ms / reference.median_ms:.2f} of ResNet-50')
    return '\n'.join(lines)


def _suites(out: Path) -> List[Tuple[Path, Records]]:
    """Folders and records of all suites."""
    found = [(path.parent, read_records(path.parent)) for path in sorted(out.rglob(RECORDS))]
    return [(folder, records) for folder, records in found if records]


def _named(report: Report, where: str) -> Report:
    return Report(f'{report.title} ({where})', report.tables, report.notes, report.plots)


def _machine_report(out: Path) -> Report:
    facts = json.loads((out / FACTS).read_text())
    rows = [{'': name, 'value': f'{value:.1f}' if isinstance(value, float) else str(value)}
            for name, value in facts.items()]
    return Report('Machine', [Table('Machine', {'': '', 'value': ''}, rows)])


def _config_of(record: LatencyRecord) -> Any:
    return detector_configs()[record.model]


def _detectors(records: Records, folder: Path, out: Path) -> Report:
    report = detectors.detector_report(records, [_config_of(record) for record in records],
                                       records[0].conditions.sizes[0])
    if not (folder / GPU_WORK).exists() or not (out / FACTS).exists():
        return report
    facts = json.loads((out / FACTS).read_text())
    bound = ('Bound: the minimum time of each convolution and linear layer on its own: its operations at the speed of '
             "the machine's fastest 3x3 convolution in this type, or its reads and writes of maps and weights at the "
             'bandwidth of a copy, whichever is longer.')
    report = _with_gpu_work(report, records, folder, 'detector')
    return Report(report.title, [*report.tables, _roofline(records, facts)], [*report.notes, bound], report.plots)


def _with_gpu_work(report: Report, records: Records, folder: Path, what: str) -> Report:
    """The report extended by what the GPU does in a call, for profiled entries."""
    work = json.loads((folder / GPU_WORK).read_text())
    rows = []
    for record in records:
        each = work.get(record.name)
        if each:
            rows.append({what: record.name, 'ms': record.median_ms, 'GPU busy (ms)': each['busy_ms'],
                         'GPU idle': 1 - each['busy_ms'] / record.median_ms, 'kernels': each['kernels']})
    note = ("GPU busy: time in which kernels and copies run, from PyTorch's profiler in separate calls. GPU idle: "
            'share of the time in which none runs, because the GPU waits for launches or for the CPU.')
    columns = {what: '', 'ms': '.2f', 'GPU busy (ms)': '.2f', 'GPU idle': '.2f', 'kernels': '.0f'}
    tables = [*report.tables, Table('What the GPU does', columns, rows)]
    return Report(report.title, tables, [*report.notes, note], report.plots)


def _roofline(records: Records, facts: Mapping[str, Any]) -> Table:
    rows = []
    for record in records:
        where = record.conditions
        name = 'TF32' if 'convolutions' in where.tf32 else where.dtype_name
        bounds = least_times(_config_of(record), where.sizes[0], where.dtype,
                             facts[f'3x3 convolution in {name}, TFLOP/s'], facts['copy, GB/s'])
        times = record.part_medians_ms
        rows.append({'detector': record.name, **{f'{part}, ms': times.get(part) for part in bounds},
                     **{f'{part}, bound': bound for part, bound in bounds.items()},
                     'all, bound': sum(bounds.values())})
    columns = {'detector': ''}
    for part in bounds:
        columns.update({f'{part}, ms': '.2f', f'{part}, bound': '.2f'})
    return Table('Parts and their bounds', {**columns, 'all, bound': '.2f'}, rows)


def _classifiers(records: Records, folder: Path, out: Path) -> Report:
    networks = classifiers.find_networks([record.model for record in records])
    return classifiers.classifier_report(networks, {records[0].conditions.batch_size: records})


def _training(records: Records, folder: Path, out: Path) -> Report:
    losses = training_steps.read_losses(folder)
    if not losses and any(folder.glob('loss-of-*.csv')):
        raise UserError('its loss curves were not recorded: its report is not changed')
    report = training_steps.training_report(records, losses)
    return _with_gpu_work(report, records, folder, 'training') if (folder / GPU_WORK).exists() else report


#: By the kind of the records.
_REPORTS: Dict[str, Callable[[Records, Path, Path], Report]] = {
    detectors.KIND: _detectors,
    classifiers.KIND: _classifiers,
    partial_conv.FORMS: lambda records, folder, out: form_report(records),
    partial_conv.KIND: lambda records, folder, out: partial_conv.partial_conv_report(records),
    operators.KIND: lambda records, folder, out: operators.operator_report(records),
    training_steps.KIND: _training}
