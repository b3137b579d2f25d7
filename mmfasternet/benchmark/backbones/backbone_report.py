"""Report on accuracy and latency of trained detectors: a table, a plot, and the curves of their trainings."""

import statistics
from typing import Any, Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from mmfasternet.benchmark.backbones.trained import Curve, Trained
from mmfasternet.benchmark.harness.records import LatencyRecord, failures, runs_of
from mmfasternet.benchmark.reporting.plots import Measured, lines, measured_trade_off
from mmfasternet.benchmark.reporting.report import Report, Table

# Names in COCO's metric and in LVIS's.
_METRICS = {'box AP': ('bbox_mAP', 'bbox_AP'), 'mask AP': ('segm_mAP', 'segm_AP'),
            'mask AP50': ('segm_mAP_50', 'segm_AP50')}


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds; the latter is None for one seed."""
    mean: float
    deviation: Optional[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> 'Spread':
        return cls(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


def backbone_report(trained: Sequence[Trained], latencies: Sequence[LatencyRecord],
                    parameters: Mapping[str, int], ours: Collection[str] = ()) -> Report:
    """Tables and plots of trained detectors.

    Args:
        trained: Trainings, of one or more seeds of each config.
        latencies: Records of the detectors, in one or more forms; their
            ``model`` is the name of the config.
        parameters: Number of trainable parameters, by the name of the config.
        ours: Names of configs that the plot highlights. Defaults to none.
    """
    names = list(dict.fromkeys(each.name for each in trained))
    forms = list(dict.fromkeys(record.conditions.full_form for record in latencies))
    runs = {name: [each for each in trained if each.name == name] for name in names}
    found = _metrics_of(trained)
    rows = [_row(name, runs[name], found, latencies, parameters[name], trained[0].device) for name in names]
    columns = {'config': '', 'parameters (M)': '.1f', 'seeds': 'd'}
    for heading in found:
        columns.update({heading: '.3f', f'± {heading}': '.3f'})
    columns.update({f'{form} (ms)': '.1f' for form in forms})
    columns.update({'iterations': 'd', 'training (min)': '.1f'})
    notes = ['AP: mean over the seeds at the last validation; ±: sample standard deviation. Training: time of the '
             f'iterations without validations, on {trained[0].device}.',
             *(f'Latency: {record.conditions.describe()}' for record in latencies[:1]),
             *([f'{runs_of(latencies).capitalize()}, with the weights of one seed.'] if latencies else ()),
             *failures(latencies)]
    plots = {}
    heading = 'mask AP' if 'mask AP' in found else next(iter(found), '')
    if forms and heading:
        points = [Measured(row['config'], row.get(f'{forms[-1]} (ms)'), row.get(heading), row.get(f'± {heading}'),
                           row['config'] in ours) for row in rows]
        plots['Accuracy and latency'] = measured_trade_off(points, f'ms, {forms[-1]}', heading, 'Accuracy and latency')
    names_of = {label: _full_name(trained, metric) for label, metric in found.items()}
    for label, curve in {'loss': 'loss', **names_of}.items():
        series = {name: mean_curve([each.curves[curve] for each in runs[name] if curve in each.curves])
                  for name in names}
        plots[f'{label} over iterations'] = lines({name: c for name, c in series.items() if c}, 'iterations', label,
                                                  f'{label} over iterations, mean over the seeds')
    return Report('Accuracy and latency of backbones', [Table('Backbones', columns, rows)], notes, plots)


def mean_curve(curves: Sequence[Curve]) -> List[Tuple[int, float]]:
    """The mean of several curves at the points that all of them have."""
    values = [dict(curve) for curve in curves]
    return [(at, statistics.mean(value[at] for value in values)) for at in sorted(values[0])
            if all(at in value for value in values)] if values else []


def _metrics_of(trained: Sequence[Trained]) -> Dict[str, str]:
    """Metrics by their headings: the usual ones of detectors, else all that the evaluator gives."""
    given = list(dict.fromkeys(name.rpartition('/')[2] for each in trained for name in each.metrics))
    known = {heading: metric for heading, metrics in _METRICS.items() for metric in metrics if metric in given}
    return known or {metric: metric for metric in given}


def _row(name: str, runs: Sequence[Trained], found: Mapping[str, str], latencies: Sequence[LatencyRecord],
         parameters: int, device: str) -> Dict[str, Any]:
    row: Dict[str, Any] = {'config': name, 'parameters (M)': parameters / 1e6, 'seeds': len(runs),
                           'iterations': runs[0].iterations}
    seconds = [each.seconds for each in runs if each.device == device]
    if seconds:
        row['training (min)'] = statistics.mean(seconds) / 60
    for heading, metric in found.items():
        values = _values(runs, metric)
        if values:
            row[heading], row[f'± {heading}'] = Spread.of(values)
    row.update({f'{record.conditions.full_form} (ms)': record.median_ms for record in latencies
                if record.model == name})
    return row


def _values(trained: Sequence[Trained], metric: str) -> List[float]:
    return [value for each in trained for name, value in each.metrics.items() if name.rpartition('/')[2] == metric]


def _full_name(trained: Sequence[Trained], metric: str) -> str:
    return next(name for each in trained for name in each.metrics if name.rpartition('/')[2] == metric)
