"""Reports of all that :mod:`mmfasternet.benchmark.plan.run_all` has found, from its records."""

import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping

import torch

from mmfasternet.benchmark.harness.suite import read_record
from mmfasternet.benchmark.harness.timing import LatencyRecord, describe_machine, failures, runs_of
from mmfasternet.benchmark.plan.run_all import STATE
from mmfasternet.benchmark.plan.steps import FACTS, GPU_WORK, R50, SUITE, S, detector_configs
from mmfasternet.benchmark.reporting.report import Report, Table, write_page
from mmfasternet.benchmark.roofline import least_times
from mmfasternet.benchmark.subjects.classifiers import classifier_report, find_networks
from mmfasternet.benchmark.subjects.detectors import detector_report
from mmfasternet.benchmark.subjects.operators import operator_report, partial_conv_report
from mmfasternet.benchmark.subjects.training_steps import training_report
from mmfasternet.errors import UserError

PAGE = 'index.html'
Records = List[LatencyRecord]


def write_reports(out: Path) -> Path:
    """Write a report beside the records of each suite, and one page with all of them.

    Args:
        out: The folder that ``run_all`` measured into.

    Returns:
        The page.

    Raises:
        UserError: If it holds nothing.
    """
    suites = [path.parent for path in sorted(out.rglob(SUITE))]
    reports = [_machine_report(out)] if (out / FACTS).exists() else []
    for folder in suites:
        records = _records(folder)
        if not records:
            continue
        try:
            report = _REPORTS[_suite(folder)['kind']](records, folder, out)
        except UserError as error:  # a suite that was stopped early
            print(f'{folder}: {error}')
            continue
        report.write(folder)
        reports.append(_named(report, str(folder.relative_to(out))))
    if not reports:
        raise UserError(f"'{out}' holds no records: measure first, without --only-reports")
    return write_page('Measurements', reports, out / PAGE)


def summarize(out: Path) -> str:
    """How each step ended, and what came out of the detectors, for the terminal."""
    lines = [f'{name}: {how}' for name, how in json.loads((out / STATE).read_text())['steps'].items()]
    for path in sorted(out.rglob(SUITE)):
        found = {record.name: record for record in _records(path.parent) if not record.error}
        for name, record in found.items():
            reference = found.get(name.replace(S, R50))
            if name.startswith(S) and reference:
                lines.append(f'{path.parent.relative_to(out)}: {name}: {record.median_ms:.2f} ms, '
                             f'{record.median_ms / reference.median_ms:.2f} of ResNet-50')
    return '\n'.join(lines)


def _suite(folder: Path) -> Dict[str, Any]:
    return json.loads((folder / SUITE).read_text())


def _records(folder: Path) -> Records:
    """Those of a suite that are there, in its order."""
    found = [read_record(folder, name) for name in _suite(folder)['names']]
    return [record for record in found if record and record.runs]


def _named(report: Report, where: str) -> Report:
    return Report(f'{report.title} ({where})', report.tables, report.notes, report.plots)


def _machine_report(out: Path) -> Report:
    facts = json.loads((out / FACTS).read_text())
    rows = [{'': name, 'value': f'{value:.1f}' if isinstance(value, float) else str(value)}
            for name, value in facts.items()]
    return Report('Machine', [Table('Machine', {'': '', 'value': ''}, rows)])


def _config_of(record: LatencyRecord) -> Any:
    return detector_configs()[record.name.partition(',')[0]]


def _size(record: LatencyRecord) -> Any:
    return tuple(map(int, record.input_size.split('x')))


def _detectors(records: Records, folder: Path, out: Path) -> Report:
    return detector_report(records, [_config_of(record) for record in records], _size(records[0]))


def _forms(records: Records, folder: Path, out: Path) -> Report:
    report = _detectors(records, folder, out)
    if not (folder / GPU_WORK).exists() or not (out / FACTS).exists():
        return report
    work, facts = json.loads((folder / GPU_WORK).read_text()), json.loads((out / FACTS).read_text())
    rows = []
    for record in records:
        each = work.get(record.name)
        if each:
            rows.append({'detector': record.name, 'ms': record.median_ms, 'GPU busy (ms)': each['busy_ms'],
                         'GPU idle': 1 - each['busy_ms'] / record.median_ms, 'kernels': each['kernels']})
    notes = ["GPU busy: the time in which kernels and copies run, by PyTorch's profiler in other calls. GPU idle: the "
             'share of the time in which none does, since it waits for launches or for the CPU.']
    columns = {'detector': '', 'ms': '.2f', 'GPU busy (ms)': '.2f', 'GPU idle': '.2f', 'kernels': '.0f'}
    tables = [*report.tables, Table('What the GPU does', columns, rows), _roofline(records, facts)]
    notes.append("Bound: the least time of each convolution and linear layer by itself, by the machine's fastest 3x3 "
                 'convolution in the type, or by its copy for reading and writing maps and weights, whichever is '
                 'longer.')
    return Report(report.title, tables, [*report.notes, *notes], report.plots)


def _roofline(records: Records, facts: Mapping[str, Any]) -> Table:
    rows = []
    for record in records:
        dtype = getattr(torch, record.dtype)
        name = 'TF32' if 'TF32 in conv' in record.device else record.dtype
        bounds = least_times(_config_of(record), _size(record), dtype, facts[f'3x3 convolution in {name}, TFLOP/s'],
                             facts['copy, GB/s'])
        times = record.part_medians_ms
        rows.append({'detector': record.name, **{f'{part}, ms': times.get(part) for part in bounds},
                     **{f'{part}, bound': bound for part, bound in bounds.items()},
                     'all, bound': sum(bounds.values())})
    columns = {'detector': ''}
    for part in bounds:
        columns.update({f'{part}, ms': '.2f', f'{part}, bound': '.2f'})
    return Table('Parts and their bounds', {**columns, 'all, bound': '.2f'}, rows)


def _operators(records: Records, folder: Path, out: Path) -> Report:
    return operator_report(records)


def _partial_convolutions(records: Records, folder: Path, out: Path) -> Report:
    return partial_conv_report(records)


def _classifiers(records: Records, folder: Path, out: Path) -> Report:
    return classifier_report(find_networks([record.name for record in records]), {records[0].batch_size: records})


def _training(records: Records, folder: Path, out: Path) -> Report:
    return training_report(records, {})


def _latencies(records: Records, folder: Path, out: Path) -> Report:
    first = records[0]
    rows = [{'': record.name, 'ms': record.median_ms, 'p10': record.p10_ms, 'p90': record.p90_ms,
             'ratio': first.median_ms / record.median_ms} for record in records]
    notes = [f'Batch {first.batch_size}, {first.input_size} pixels, {first.form}, {describe_machine(first.conditions)}',
             f'{runs_of(records).capitalize()}; ratio: speed over that of {first.name}.', *failures(records)]
    return Report('Forms of the block', [Table('Forms of the block', {'': '', 'ms': '.3f', 'p10': '.3f', 'p90': '.3f',
                                                                      'ratio': '.2f'}, rows)], notes)


_REPORTS: Dict[str, Callable[[Records, Path, Path], Report]] = {
    'detectors': _detectors, 'forms': _forms, 'operators': _operators, 'partial convolutions': _partial_convolutions,
    'classifiers': _classifiers, 'training': _training, 'latencies': _latencies}
