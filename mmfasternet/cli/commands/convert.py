"""Convert FasterNet weights between the authors' layout, timm's and ours.

Training, testing and prediction do not need it: they read all three layouts.
"""

import argparse
import sys
from typing import Optional, Sequence

from mmfasternet.cli.options import add_trust_option, make_parser, one_line_errors, trusting

_TARGETS = {
    'mmfasternet': 'a classifier or detector of this package',
    'official': "the authors' names (MMDetection 2.x for a detector)",
    'timm': "timm's, for classifiers and backbones without output norms",
    'backbone': 'the bare backbone of this package, without its heads',
}


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(__doc__, 'convert', 'model.safetensors fasternet_t0.pth')
    parser.add_argument('input', help='checkpoint: a file, a URL or a name on the Hub')
    parser.add_argument('output', help='file to write: .pth or .safetensors')
    parser.add_argument('--to', choices=list(_TARGETS), default='mmfasternet',
                        help='; '.join(': '.join(item) for item in _TARGETS.items()) + ' (default: mmfasternet)')
    add_trust_option(parser)
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors(), trusting(args):
        from mmfasternet.checkpoints import convert_checkpoint
        from mmfasternet.models import FasterNet
        kind, new_kind = convert_checkpoint(args.input, args.output, args.to)
        classes = 'unknown number of classes' if kind.num_classes is None else f'{kind.num_classes} classes'
        variant = kind.variant(FasterNet.arch_settings)
        if variant not in {f'FasterNet-{arch.upper()}' for arch in FasterNet.arch_settings}:
            print(f'warning: {args.input} holds {variant}, which is not one of the variants. Is the file '
                  'complete?', file=sys.stderr)
        what = f'{variant}, {kind.layout} {kind.model}'
        print(f'{what}{"" if kind.model == "backbone" else ", " + classes} -> {new_kind.layout} {new_kind.model}: '
              f'{args.output}')
