"""Count parameters and multiply-adds of classifiers and detectors, part by part."""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from mmfasternet.cli.options import integer, make_parser, one_line_errors


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(
        __doc__, 'flops', 'configs/fasternet_t0_in1k.py configs/mask_rcnn_fasternet_t0_1x_coco.py')
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config files, or names of our configs')
    parser.add_argument('--size', nargs=2, type=integer(1), metavar=('H', 'W'),
                        help='image size in pixels (default: 224 224 for a classifier, 800 1280 for a detector)')
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Column, Table

        from mmfasternet.benchmark.complexity import count_complexity
        from mmfasternet.engine.config import load_config
        for config in args.configs:
            cfg = load_config(config)
            table = Table(Column('part'), Column('parameters (M)', justify='right'),
                          Column('multiply-adds (G)', justify='right'), title=escape(Path(config).stem),
                          title_justify='left')
            for row in count_complexity(cfg, args.size):
                table.add_row(escape(row.part), f'{row.parameters / 1e6:.2f}', f'{row.multiply_adds / 1e9:.2f}')
            Console().print(table)
