"""Generate a small instance segmentation dataset in COCO format: overlapping coloured shapes on clutter."""

import argparse
from typing import Optional, Sequence

from mmfasternet.cli.options import make_parser, one_line_errors


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(__doc__, 'make-shapes', 'data/shapes')
    parser.add_argument('root', help='folder to make')
    parser.add_argument('--num-train', type=int, default=800, help='number of training images (default: 800)')
    parser.add_argument('--num-val', type=int, default=100, help='number of validation images (default: 100)')
    parser.add_argument('--size', type=int, default=192, help='height and width in pixels (default: 192)')
    parser.add_argument('--seed', type=int, default=0, help='the same seed gives the same files (default: 0)')
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors():
        from mmfasternet.datasets.shapes import make_shapes_coco
        root = make_shapes_coco(args.root, args.num_train, args.num_val, args.size, args.seed)
        print(f'{args.num_train} training and {args.num_val} validation images in {root}')
