"""Table 2 and Fig. 6 of the paper for a checkpoint and a folder of images."""

from pathlib import Path
from typing import Any, Dict, List, Sequence

import torch
from rich.console import Console
from rich.progress import track

from mmfasternet.benchmark.approximation.kernels import OPERATORS, approximate_conv, collect_maps
from mmfasternet.benchmark.approximation.salience import salient_positions
from mmfasternet.benchmark.paper import TABLE_2
from mmfasternet.benchmark.reporting.plots import histograms
from mmfasternet.benchmark.reporting.report import Report, Table
from mmfasternet.checkpoints import read_checkpoint
from mmfasternet.checkpoints.contents import weights_of

_POSITIONS = ('1', '2', '3', '4', '5 (center)', '6', '7', '8', '9')


def analysis_report(checkpoint: str, images: Sequence[str], device: torch.device, epochs: int, lr: float) -> Report:
    """Fit the operators to a ResNet-50's convolutions, and count the salient positions of its kernels.

    Args:
        checkpoint: Path or URL of its weights; without images, of any network
            with 3x3 kernels.
        images: Image files to fit on; none to only count positions.
        device: Device to compute on.
        epochs: Passes over the training images.
        lr: Learning rate.

    Raises:
        UserError: If the checkpoint or an image can't be used.
    """
    weights = weights_of(read_checkpoint(checkpoint), checkpoint)
    positions = salient_positions(weights)
    tables = [Table('Salient positions', {'stage': '', **{position: '.3f' for position in _POSITIONS}},
                    [{'stage': stage, **dict(zip(_POSITIONS, shares))} for stage, shares in positions.items()])]
    notes = [f"{Path(checkpoint).name}; share of the 3x3 filters in which a position, from the upper left to the lower "
             f'right, has the largest norm.']
    if images:
        maps = collect_maps(weights, images, device)
        tasks = [(operator, stage) for operator in OPERATORS for stage in range(1, len(maps) + 1)]
        fits = {(operator, stage): approximate_conv(operator, maps[stage - 1], device, epochs, lr)
                for operator, stage in track(tasks, 'fitting', transient=True, console=Console(stderr=True))}
        columns = {'stage': '', **{f'{prefix}{name}': '.4f' for prefix in ('', 'paper: ') for name in OPERATORS}}
        rows: List[Dict[str, Any]] = [
            {'stage': str(stage), **{operator: fits[operator, stage] for operator in OPERATORS},
             **{f'paper: {operator}': TABLE_2[operator][stage - 1] for operator in OPERATORS}}
            for stage in range(1, len(maps) + 1)]
        rows.append({'stage': 'mean', **{name: sum(row[name] for row in rows) / len(rows)
                                         for name in columns if name != 'stage'}})
        tables.insert(0, Table('Test loss', columns, rows))
        notes.append(f'Mean squared error on 20 % of {len(images)} images, after {epochs} epochs on 70 % of them, of '
                     f'networks fitted to the first 3x3 convolution of each stage that keeps the size of its map. '
                     f'Paper: Table 2, on ImageNet and its own weights.')
    plot = histograms(positions, _POSITIONS, 'position', 'share of the filters', f'Salient positions, {notes[0][:40]}')
    return Report('Convolutions taken apart', tables, notes, {'Salient positions': plot})
