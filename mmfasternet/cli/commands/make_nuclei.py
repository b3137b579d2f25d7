"""Make a dataset in COCO format from the nuclei of the 2018 Data Science Bowl (stage1_train, also BBBC038).

Folders that can't be used are reported and skipped; the exit status is then 3.
"""

import argparse
import sys
from typing import Optional, Sequence

from mmfasternet.cli.options import integer, make_parser, one_line_errors


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(__doc__, 'make-nuclei', 'stage1_train data/nuclei')
    parser.add_argument('source', help='the unpacked download: one folder per image, with images/ and masks/ in it')
    parser.add_argument('root', help='folder to make: images/, train.json and val.json')
    parser.add_argument('--val-share', type=float, default=0.18, help='share of the images to validate on, chosen by '
                        'the names of their folders (default: 0.18)')
    parser.add_argument('--max-size', type=integer(1), metavar='PX',
                        help='skip images with a longer side (default: none)')
    parser.add_argument('--segmentation', choices=['polygon', 'rle'], default='polygon',
                        help='outlines, or run-length encodings, which keep holes (default: polygon)')
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors():
        from mmfasternet.datasets.nuclei import make_nuclei_coco
        report = make_nuclei_coco(args.source, args.root, args.val_share, args.max_size, args.segmentation)
    for problem in report.problems:
        print(f'warning: {problem}', file=sys.stderr)
    for split, coco in report.splits.items():
        print(f'{args.root}/{split}.json: {coco.summary()}')
    if report.too_large:
        print(f'{report.too_large} images over {args.max_size} px were skipped')
    if report.problems:
        print(f'warning: {len(report.problems)} folders or masks, listed above, were skipped', file=sys.stderr)
        sys.exit(3)
