"""Run the whole pipeline in minutes on a CPU: pre-training on digits, a detector of shapes, accuracy, latency."""

import argparse
from typing import Optional, Sequence

from mmfasternet.cli.options import integer, make_parser, one_line_errors


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(__doc__, 'demo', '--seed 1')
    parser.add_argument('--seed', type=integer(0), default=0, help='of both trainings (default: 0)')
    parser.add_argument('--work-dir', default='work_dirs/demo',
                        help='folder for logs, checkpoints, pictures and the results page (default: work_dirs/demo); '
                        'the shapes are in data/shapes')
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors():
        from mmfasternet.demo.outcome_page import print_outcome, write_outcome_page
        from mmfasternet.demo.whole_way import go_the_whole_way
        from mmfasternet.engine.config import load_config
        from mmfasternet.engine.device import set_threads
        seed = {'randomness.seed': args.seed}
        digits = load_config('fasternet_t0_digits', seed, f'{args.work_dir}/digits')
        shapes = load_config('mask_rcnn_fasternet_t0_shapes', seed, args.work_dir)
        set_threads()
        outcome = go_the_whole_way(digits, shapes)
        write_outcome_page(outcome)
        print_outcome(outcome)
