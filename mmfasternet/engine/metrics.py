"""The metrics of an evaluation as a table."""

from typing import Dict

from rich.console import Console
from rich.table import Table

_COCO_COLUMNS = {'mAP': 'AP', 'mAP_50': 'AP50', 'mAP_75': 'AP75', 'mAP_s': 'APs', 'mAP_m': 'APm', 'mAP_l': 'APl'}
_COCO_ROWS = {'bbox': 'box', 'segm': 'mask'}


def print_metrics(metrics: Dict[str, float]) -> None:
    """Print COCO metrics as box and mask rows, any others one by one.

    Args:
        metrics: The values by name, such as ``coco/bbox_mAP``. COCO's -1,
            where there is no object of a size, is shown as a dash.
    """
    table = Table()
    rows = {title: row for row, title in _COCO_ROWS.items() if f'coco/{row}_mAP' in metrics}
    if rows:
        table.add_column('')
        for title in _COCO_COLUMNS.values():
            table.add_column(title, justify='right')
        for title, row in rows.items():
            values = [metrics[f'coco/{row}_{column}'] for column in _COCO_COLUMNS]
            table.add_row(title, *('-' if value < 0 else f'{value:.3f}' for value in values))
    else:
        table.add_column('metric')
        table.add_column('value', justify='right')
        for name, value in metrics.items():
            table.add_row(name, f'{value:.4g}')
    Console().print(table)
