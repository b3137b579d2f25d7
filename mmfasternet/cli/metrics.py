"""The metrics of an evaluation as a table."""

import os
from typing import Any, Dict, Mapping, Optional, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

_COCO_COLUMNS = {'mAP': 'AP', 'mAP_50': 'AP50', 'mAP_75': 'AP75', 'mAP_s': 'APs', 'mAP_m': 'APm', 'mAP_l': 'APl'}
_COCO_ROWS = {'bbox': 'box', 'segm': 'mask'}


def print_metrics(metrics: Dict[str, Any], kinds: Sequence[str],
                  written: Optional[Mapping[str, Optional[int]]] = None) -> None:
    """Print COCO's box and mask AP as a table, then any other metrics and the files of results.

    Args:
        metrics: The values by name, such as ``coco/bbox_mAP``. COCO's -1 (no
            object of a size) and metrics that were not computed are shown as a
            dash.
        kinds: The evaluators' types.
        written: Files that an evaluator wrote instead of metrics, each with the
            number of its results if known, and folders, which end in
            ``os.sep``, with the number of their files. Defaults to None: there
            is no such evaluator.
    """
    others = dict(metrics)
    if written is not None:
        where = '. Results are in:' if written else '. No files that begin with outfile_prefix were written'
        print(f"{'not everything' if metrics else 'nothing'} was evaluated, because of format_only=True{where}")
        for path, count in written.items():
            print(path if count is None else f"{path} ({count} {'files' if path.endswith(os.sep) else 'results'})")
    elif not metrics:
        hint = '. CocoMetric gives none if nothing was detected on any image' if 'CocoMetric' in kinds else ''
        print(f"no metrics: the config's test_evaluator ({', '.join(kinds)}) gave none{hint}")
    rows = [(title, [others.pop(f'coco/{row}_{column}', -1) for column in _COCO_COLUMNS])
            for row, title in _COCO_ROWS.items() if f'coco/{row}_mAP' in metrics]
    if rows:
        table = Table('', *(Column(title, justify='right') for title in _COCO_COLUMNS.values()))
        for title, values in rows:
            table.add_row(title, *('-' if value < 0 else f'{value:.3f}' for value in values))
        Console().print(table)
    if others:
        table = Table('metric', Column('value', justify='right'))
        for name, value in others.items():
            # A class may have brackets in its name, which would be markup.
            table.add_row(escape(name), f'{value:.4g}' if isinstance(value, (int, float)) else escape(str(value)))
        Console().print(table)
