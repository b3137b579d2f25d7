"""List the configs that come with the package, or print the path of one, for use in other tools."""

import argparse
from typing import Optional, Sequence

from mmfasternet.cli.options import make_parser, one_line_errors


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(__doc__, 'configs', 'mask_rcnn_fasternet_s_1x_coco')
    parser.add_argument('name', nargs='?', metavar='NAME', help='name of a config (default: list all names)')
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors():
        from mmfasternet.config_files import config_names, config_path
        print(config_path(args.name) if args.name else '\n'.join(config_names()))
