"""Automatic plots of a training's losses, learning rate and metrics."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Set, Tuple

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, print_log
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmfasternet.compat import built_train_loop
from mmfasternet.files import atomic_path, cannot_write
from mmfasternet.registry import HOOKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The plot in the work folder.
CURVES = 'curves.png'
#: In the message hub: what validations gave, each ``[iteration, value]`` by the metric's name. MMEngine logs what is
#: called val..., train... or test...
VALIDATIONS = 'curves_of_validations'

#: Iterations and the values at them.
Curve = Tuple[np.ndarray, np.ndarray]
Curves = Dict[str, Curve]

_POINTS = 400  # per curve, each the mean of several iterations
_LINES = 6  # in a panel
# Metrics to plot if a validation gives them, by the end of their names; else all are plotted.
_MAIN, _NEXT = ('mAP', '/AP', 'bbox_AP', 'segm_AP', 'top1'), ('mAP_50', 'AP50', 'top5')


@HOOKS.register_module()
class CurvesHook(Hook):
    """Plots losses, learning rate and metrics over the iterations to ``curves.png`` in the work folder.

    It does so after each validation and at the end, even after an error. The
    data is the history in MMEngine's message hub, which checkpoints contain:
    after a resumption the plot shows the whole training.

    A failed plot is a warning and never ends a training. It uses no random
    numbers, and does not change matplotlib's settings.
    """

    priority = 'LOW'  # after who counts, before who saves or stops

    def __init__(self) -> None:
        self._done = 0
        self._plotted = -1
        self._warned: Set[str] = set()

    def before_train(self, runner: Runner) -> None:
        self._done = runner.iter

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._done = runner.iter + 1

    def after_val_epoch(self, runner: Runner, metrics: Optional[Mapping[str, Any]] = None) -> None:
        if built_train_loop(runner) is None:
            return
        known = runner.message_hub.runtime_info.get(VALIDATIONS, {})
        runner.message_hub.update_info(VALIDATIONS, _with(known, metrics or {}, self._done))
        self._plot(runner)

    def after_train(self, runner: Runner) -> None:
        self.after_loop(runner)

    def after_loop(self, runner: Runner) -> None:
        """Plot again at the end, also if the training was stopped or has failed."""
        if self._done != self._plotted:
            self._plot(runner)

    def _plot(self, runner: Runner) -> None:
        self._plotted = self._done
        if not is_main_process() or not self._done:
            return
        path = Path(runner.work_dir) / CURVES
        try:
            loop = built_train_loop(runner)
            per_epoch = len(runner.train_dataloader) if isinstance(loop, EpochBasedTrainLoop) else None
            figure = draw(curves_of(runner.message_hub, self._done), per_epoch)
            with atomic_path(path) as unfinished:
                figure.savefig(unfinished, format='png', pil_kwargs=dict(optimize=True))
        except OSError as error:
            self._warn(cannot_write(path, error, 'Make it writable'))
        except Exception as error:  # no error in a plot may end the training
            self._warn(f"'{path}' could not be plotted: {type(error).__name__}: {error}")

    def _warn(self, problem: str) -> None:
        line = (f'{" ".join(problem.split())}. The training continues without it (--cfg-options '
                'mmfasternet.omit=[CurvesHook])')
        if line not in self._warned:
            self._warned.add(line)
            print_log(line, 'current', logging.WARNING)


def _with(known: Mapping[str, List[Any]], metrics: Mapping[str, Any], iteration: int) -> Dict[str, List[Any]]:
    """The history of validations with a new one, which replaces an interrupted one of the same iteration."""
    found = {name: [point for point in points if point[0] < iteration] for name, points in known.items()}
    for name, value in metrics.items():
        if isinstance(value, (int, float, np.number)):
            found.setdefault(name, []).append([iteration, float(value)])
    return found


def curves_of(hub: MessageHub, done: int) -> Dict[str, Curves]:
    """The curves of a training, grouped in panels: losses, learning rate, and metrics.

    Args:
        hub: MMEngine's message hub, which has the values of each iteration.
        done: Number of finished iterations. The last value of each history
            belongs to the last iteration: skipped batches have no value, which
            shifts the values before them.
    """
    history = {name[len('train/'):]: np.asarray(buffer.data[0], dtype=float)[-done:]
               for name, buffer in hub.log_scalars.items() if name.startswith('train/')}
    panels: Dict[str, Curves] = {'loss': {}, 'learning rate': {}}
    losses = {name: values for name, values in history.items() if 'loss' in name}
    for name in sorted(losses, key=lambda name: (name != 'loss', -_last_mean(losses[name])))[:_LINES]:
        panels['loss'][name] = thinned(losses[name], done)
    for name in [name for name in history if name.rpartition('.')[2] in ('lr', 'base_lr')][:_LINES]:
        panels['learning rate'][name] = thinned(history[name], done)
    for name, curve in _main_metrics(hub.runtime_info.get(VALIDATIONS, {})).items():
        # An accuracy in percent would hide an AP on the same axes.
        panel = 'loss' if 'loss' in name else 'metrics' if curve[1].max() <= 1 else 'metrics above 1'
        panels.setdefault(panel, {})[f'{name} (validation)' if panel == 'loss' else name] = curve
    return {panel: curves for panel, curves in panels.items() if curves}


def _main_metrics(validations: Mapping[str, List[Any]]) -> Curves:
    """The main metrics; without NaN and COCO's -1, which marks sizes without objects."""
    found = {}
    for name, points in validations.items():
        at, values = np.array(points, dtype=float).T
        counts = np.isfinite(values) & ((values >= 0) | ('AP' not in name.rpartition('/')[2]))
        if counts.any():
            found[name] = at[counts], values[counts]
    chosen = [name for ends in (_MAIN, _NEXT) for name in found if f'/{name}'.endswith(ends)]
    chosen += [name for name in found if 'loss' in name]
    return {name: found[name] for name in (chosen or list(found))[:_LINES]}


def _last_mean(values: np.ndarray) -> float:
    last = values[-_POINTS:]
    last = last[np.isfinite(last)]
    return float(last.mean()) if last.size else -np.inf


def thinned(values: np.ndarray, done: int) -> Curve:
    """Reduce a long history to a few hundred points: means over equally many iterations, without non-finite values.

    Args:
        values: One per iteration, ``(n, )``.
        done: Number of the last iteration.

    Returns:
        The middle iterations and the means of at most 400 points; NaN, drawn as a gap, where no value is finite.
    """
    length = -(-len(values) // _POINTS) or 1
    starts = np.arange(0, len(values), length)
    finite = np.isfinite(values)
    counts = np.add.reduceat(finite.astype(float), starts)
    sums = np.add.reduceat(np.where(finite, values, 0.), starts)
    means = np.divide(sums, counts, out=np.full(len(starts), np.nan), where=counts > 0)
    ends = np.minimum(starts + length, len(values))
    return done - len(values) + (starts + 1 + ends) / 2, means


def draw(panels: Mapping[str, Curves], per_epoch: Optional[int] = None) -> 'Figure':
    """Draw panels below each other over the iterations, with an axis for epochs on top.

    Args:
        panels: As :func:`curves_of` gives them.
        per_epoch: Iterations per epoch. Defaults to None: no axis for epochs.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    figure = Figure(figsize=(10, .8 + 2.4 * max(len(panels), 1)), dpi=90, layout='constrained')
    FigureCanvasAgg(figure)  # not pyplot, which the calling program may use
    rows = figure.subplots(len(panels) or 1, sharex=True, squeeze=False)[:, 0]
    for axes, (panel, curves) in zip(rows, panels.items()):
        _draw_panel(axes, panel, curves)
    rows[-1].set_xlabel('iteration')
    rows[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    if per_epoch:
        top = rows[0].secondary_xaxis('top', functions=(lambda x: x / per_epoch, lambda x: x * per_epoch))
        top.set_xlabel('epoch')
    return figure


def _draw_panel(axes: 'Axes', panel: str, curves: Curves) -> None:
    for name, (at, values) in curves.items():
        few = len(at) < 50  # markers make single points visible
        axes.plot(at, values, label=name.replace('$', r'\$'), linewidth=2 if name == 'loss' else 1.2,
                  marker='o' if few else None, markersize=3)
    every = np.concatenate([values[np.isfinite(values)] for _, values in curves.values()])
    if panel == 'loss' and every.size and 0 < every.min() < every.max() / 10:
        axes.set_yscale('log')  # small losses are visible, and the first iterations don't hide the others
    axes.set_ylabel(panel)
    axes.grid(alpha=.3)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(loc='center left', bbox_to_anchor=(1.01, .5), frameon=False, fontsize=8)
