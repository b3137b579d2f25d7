"""The metrics of an evaluation as a table."""

from typing import Any, Dict

from rich.console import Console
from rich.table import Column, Table

_COCO_COLUMNS = {'mAP': 'AP', 'mAP_50': 'AP50', 'mAP_75': 'AP75', 'mAP_s': 'APs', 'mAP_m': 'APm', 'mAP_l': 'APl'}
_COCO_ROWS = {'bbox': 'box', 'segm': 'mask'}


def print_metrics(metrics: Dict[str, Any]) -> None:
    """Print COCO's box and mask AP as a table, and any other metrics below it.

    Args:
        metrics: The values by name, such as ``coco/bbox_mAP``. COCO's -1,
            where there is no object of a size, is shown as a dash, and so is
            what was not computed.
    """
    console, others = Console(), dict(metrics)
    if not metrics:
        console.print('no metrics: nothing was detected on any image')
    rows = [(title, [others.pop(f'coco/{row}_{column}', -1) for column in _COCO_COLUMNS])
            for row, title in _COCO_ROWS.items() if f'coco/{row}_mAP' in metrics]
    if rows:
        table = Table('', *(Column(title, justify='right') for title in _COCO_COLUMNS.values()))
        for title, values in rows:
            table.add_row(title, *('-' if value < 0 else f'{value:.3f}' for value in values))
        console.print(table)
    if others:
        table = Table('metric', Column('value', justify='right'))
        for name, value in others.items():
            table.add_row(name, f'{value:.4g}' if isinstance(value, (int, float)) else str(value))
        console.print(table)
