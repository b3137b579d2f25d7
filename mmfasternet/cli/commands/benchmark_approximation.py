"""Fit PConv, DWConv and GConv to a ResNet-50's 3x3 convolutions (Table 2); count salient kernel positions (Fig. 6)."""

import argparse
from typing import Optional, Sequence

from mmfasternet.cli.options import add_trust_option, integer, make_parser, one_line_errors, trusting


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(__doc__, 'benchmark approximation', 'resnet50.pth --images data/imagenet/val')
    parser.add_argument('checkpoint', help='weights of a ResNet-50; without --images, of any network with 3x3 kernels')
    parser.add_argument('--images', metavar='DIR', help='folder of images to fit on, with its subfolders (default: no '
                        'fit, only the histogram)')
    parser.add_argument('--max-images', type=integer(1), default=1000,
                        help='at most this many images, spread over the folders (default: 1000)')
    parser.add_argument('--epochs', type=integer(1), default=50, help='passes over the training images (default: 50)')
    parser.add_argument('--lr', type=float, default=1e-3, help='learning rate (default: 1e-3)')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: the first GPU, else the CPU)')
    parser.add_argument('--out', metavar='DIR', help='write tables and a plot to this folder')
    add_trust_option(parser)
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors(), trusting(args):
        from mmfasternet.benchmark.approximation.approximation_report import analysis_report
        from mmfasternet.datasets.image_files import find_images
        from mmfasternet.engine.device import find_device, set_threads
        from mmfasternet.files import check_folder
        set_threads()
        if args.out:
            check_folder(args.out)
        images = find_images(args.images, args.max_images, tree=True) if args.images else []
        report = analysis_report(args.checkpoint, images, find_device(args.device), args.epochs, args.lr)
        report.print()
        if args.out:
            report.write(args.out)
