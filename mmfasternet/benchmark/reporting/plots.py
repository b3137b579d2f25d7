"""Plots of measurements with matplotlib."""

import math
import textwrap
from typing import TYPE_CHECKING, Dict, List, Literal, Mapping, NamedTuple, Optional, Sequence, Tuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: x, y and the name of a point.
Point = Tuple[float, float, str]
OURS = 'FasterNet'


_MARKERS = 'svD^>p*hXd<P8H'


class Measured(NamedTuple):
    """A point whose y is a mean over several runs.

    Attributes:
        name: Its name.
        x: None if it was not measured, like y.
        y: The mean.
        spread: Error bar of y to either side; None if there was one run.
        ours: Whether it has FasterNet's colour.
    """
    name: str
    x: Optional[float]
    y: Optional[float]
    spread: Optional[float]
    ours: bool


def stacked_bars(bars: Mapping[str, Mapping[str, float]], unit: str, title: str) -> 'Figure':
    """Horizontal stacked bars.

    Args:
        bars: For each bar by name, the lengths of its parts by name; from top
            to bottom.
        unit: Label of the lengths.
        title: Title of the plot.
    """
    figure = _figure(10, 1.6 + .42 * len(bars))
    axes = figure.subplots()
    names = list(bars)
    parts = list(dict.fromkeys(part for bar in bars.values() for part in bar))
    left = [0.] * len(names)
    for part in parts:
        lengths = [bars[name].get(part, 0.) for name in names]
        axes.barh(names, lengths, left=left, label=part)
        left = [a + b for a, b in zip(left, lengths)]
    for index, total in enumerate(left):
        axes.text(total, index, f' {total:.0f}' if total >= 100 else f' {total:.1f}', va='center')
    axes.invert_yaxis()
    axes.margins(x=.08)
    axes.set_xlabel(unit)
    if len(parts) > 1:
        axes.legend(ncols=len(parts), loc='upper center', bbox_to_anchor=(.5, -.09 - .35 / len(names)), frameon=False)
    _finish(axes, title, grid='x')
    return figure


def trade_off(families: Mapping[str, Sequence[Point]], x: str, y: str, title: str, log_y: bool = False) -> 'Figure':
    """A line for each family of models; FasterNet's is the thick one.

    Args:
        families: Points of each family by its name.
        x: Label of the x axis.
        y: Label of the y axis.
        title: Title of the plot.
        log_y: Whether the y axis is logarithmic, as the x axis is. Defaults
            to False.
    """
    figure = _figure(9, 6)
    axes = figure.subplots()
    from matplotlib import color_sequences
    colors = [color for index, color in enumerate(color_sequences['tab20']) if index not in (6, 7)]  # no reds
    for index, (family, points) in enumerate(families.items()):
        xs, ys, _ = zip(*sorted(points))
        ours = family == OURS
        axes.plot(xs, ys, label=family, color='#d1242f' if ours else colors[index % len(colors)],
                  linewidth=2.5 if ours else 1, marker='o' if ours else _MARKERS[index % len(_MARKERS)],
                  markersize=7 if ours else 5, zorder=3 if ours else 2)
        if ours:
            _name_points(axes, points)
    axes.set_xscale('log')
    if log_y:
        axes.set_yscale('log')
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(loc='center left', bbox_to_anchor=(1.01, .5), frameon=False)
    _finish(axes, title)
    return figure


def roofline(points: Mapping[str, Sequence[Point]],
             peak: float,
             bandwidth: float,
             title: str,
             work: str = 'multiply-adds') -> 'Figure':
    """Speed over intensity, below the two ceilings of a processor.

    Args:
        points: Intensity in multiply-adds per byte and speed in 10^9
            multiply-adds per second, by operator.
        peak: The processor's speed, 10^9 multiply-adds per second.
        bandwidth: Its memory's, 10^9 bytes per second.
        title: Title of the plot.
        work: Label of the counted operations.
    """
    figure = _figure(9, 6)
    axes = figure.subplots()
    intensities = [x for series in points.values() for x, _, _ in series] + [peak / bandwidth]
    low, high = min(intensities) / 2, max(intensities) * 2
    axes.plot([low, peak / bandwidth, high], [low * bandwidth, peak, peak], color='#57606a', linewidth=1.5,
              label=f'{bandwidth:.0f} GB/s, {peak:.0f} G/s')
    for index, (name, series) in enumerate(points.items()):
        xs, ys, _ = zip(*series)
        axes.plot(xs, ys, linestyle='', marker=_MARKERS[index % len(_MARKERS)], markersize=8, label=name)
        _name_points(axes, series)
    axes.set_xscale('log')
    axes.set_yscale('log')
    axes.set_xlabel(f'{work} per byte of memory access')
    axes.set_ylabel(f'10$^9$ {work} per second')
    axes.legend(loc='lower right', frameon=False)
    _finish(axes, title)
    return figure


def histograms(groups: Mapping[str, Sequence[float]], labels: Sequence[str], x: str, y: str, title: str) -> 'Figure':
    """Grouped bars: for each label one bar of each group."""
    figure = _figure(9, 5)
    axes = figure.subplots()
    width = .8 / max(len(groups), 1)
    for index, (name, heights) in enumerate(groups.items()):
        at = [position + (index - (len(groups) - 1) / 2) * width for position in range(len(labels))]
        axes.bar(at, heights, width, label=name)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(frameon=False)
    _finish(axes, title, grid='y')
    return figure


def curves(series: Mapping[str, Sequence[float]], x: str, y: str, title: str) -> 'Figure':
    """A line for each series, over the index of the value, from 1.

    Args:
        series: Values by name.
        x: Label of the x axis.
        y: Label of the y axis.
        title: Title of the plot.
    """
    return lines({name: list(enumerate(values, 1)) for name, values in series.items()}, x, y, title)


def lines(series: Mapping[str, Sequence[Tuple[float, float]]], x: str, y: str, title: str) -> 'Figure':
    """A line through the points of each series.

    Args:
        series: Points, x and y, by name.
        x: Label of the x axis.
        y: Label of the y axis.
        title: Title of the plot.
    """
    figure = _figure(9, 5)
    axes = figure.subplots()
    for name, points in series.items():
        axes.plot(*zip(*points), label=name, linewidth=1.2, marker='o' if len(points) < 40 else '', markersize=3)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(frameon=False)
    _finish(axes, title)
    return figure


def measured_trade_off(points: Sequence[Measured], x: str, y: str, title: str) -> 'Figure':
    """A labelled point for each model, with its spread in y; NaN is left out.

    Args:
        points: What was measured.
        x: Label of the x axis.
        y: Label of the y axis.
        title: Title of the plot.
    """
    figure = _figure(9, 6)
    axes = figure.subplots()
    for point in points:
        if point.x is not None and point.y is not None and not math.isnan(point.x):
            axes.errorbar(point.x, point.y, yerr=point.spread or 0, marker='o', capsize=4, linestyle='',
                          color='#d1242f' if point.ours else '#57606a')
            axes.annotate(point.name, (point.x, point.y), xytext=(7, 4), textcoords='offset points', fontsize=8)
    axes.margins(x=.2)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    _finish(axes, title)
    return figure


def by_family(points: Sequence[Tuple[str, Optional[float], Optional[float], str]]) -> Dict[str, List[Point]]:
    """Points as ``(family, x, y, name)``, grouped; those without an x or y, or with NaN, are dropped."""
    families: Dict[str, List[Point]] = {}
    for family, x, y, name in points:
        if x is not None and y is not None and not (math.isnan(x) or math.isnan(y)):
            families.setdefault(family, []).append((x, y, name))
    return families


def _figure(width: float, height: float) -> 'Figure':
    from matplotlib.figure import Figure
    return Figure(figsize=(width, height))


def _name_points(axes: 'Axes', points: Sequence[Point]) -> None:
    for x, y, name in points:
        axes.annotate(name, (x, y), xytext=(4, -11), textcoords='offset points', fontsize=8)


def _finish(axes: 'Axes', title: str, grid: Literal['both', 'x', 'y'] = 'both') -> None:
    axes.set_title(textwrap.fill(title, 100), loc='left', fontsize=11)
    axes.grid(axis=grid, alpha=.3)
    axes.spines[['top', 'right']].set_visible(False)
