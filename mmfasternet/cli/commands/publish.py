"""Make a checkpoint ready to publish: without its training state, and with the hash of the file in its name."""

import argparse
from typing import Optional, Sequence

from mmfasternet.cli.options import add_trust_option, make_parser, one_line_errors, trusting


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(__doc__, 'publish', 'work_dirs/demo/epoch_5.pth mask_rcnn_fasternet_t0_shapes.pth')
    parser.add_argument('input', help='checkpoint: a file, a URL or a name on the Hub')
    parser.add_argument('output', help='name of the new file; the hash is added: NAME-1a2b3c4d.pth')
    add_trust_option(parser)
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors(), trusting(args):
        from mmfasternet.checkpoints import publish_checkpoint
        from mmfasternet.models.weights.fitting import listed
        path, dropped = publish_checkpoint(args.input, args.output)
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB){f', without {listed(dropped)}' if dropped else ''}")
