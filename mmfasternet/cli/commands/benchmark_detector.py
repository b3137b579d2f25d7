"""Compare the end-to-end latency of detectors, from image to boxes and masks, and of their parts."""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from mmfasternet.cli.options import (
    add_benchmark_options,
    add_deploy_options,
    add_trust_option,
    integer,
    make_parser,
    one_line_errors,
    set_up_device,
    trusting,
)


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(
        __doc__, 'benchmark detector', 'configs/mask_rcnn_fasternet_t0_1x_coco.py timm:resnet18')
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='config files of detectors, or timm:NAME, the '
                        'Mask R-CNN of Table 4 with that timm network')
    parser.add_argument('--table4', action='store_true', help='the twelve detectors of Table 4 of the paper')
    parser.add_argument('--checkpoint', help='weights for a single config, or a folder that mmfasternet export made '
                        '(default: random weights with which a two-stage detector finds objects)')
    image = parser.add_mutually_exclusive_group()
    image.add_argument('--size', nargs=2, type=integer(1), default=(800, 1280), metavar=('H', 'W'),
                       help='height and width of a random image in pixels (default: 800 1280)')
    image.add_argument('--images', metavar='DIR',
                       help="images to use in turn, resized by the config's test pipeline (default: a random one)")
    parser.add_argument('--batch', type=integer(1), default=1, help='batch size (default: 1)')
    parser.add_argument('--runs', type=integer(1), default=20, help='timed runs (default: 20)')
    add_benchmark_options(parser)
    add_deploy_options(parser)
    add_trust_option(parser)
    args = parser.parse_args(argv)
    if args.table4 == bool(args.configs):
        parser.error('give either config files or --table4')
    if args.checkpoint and len(args.configs) != 1:
        parser.error('--checkpoint needs exactly one config')
    if len({c if c.startswith('timm:') else Path(c).stem for c in args.configs}) < len(args.configs):
        parser.error('config files must have different names, because records are stored under them')
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors(), trusting(args):
        from mmfasternet.benchmark.harness.suite import run_suite
        from mmfasternet.benchmark.paper import TABLE_4
        from mmfasternet.benchmark.subjects.detectors import DetectorInput, detector_entry, detector_report
        from mmfasternet.benchmark.subjects.timm_detectors import named_config
        from mmfasternet.config_files import configs_folder
        from mmfasternet.datasets.image_files import find_images
        from mmfasternet.engine.deploying import DeployOptions
        device = set_up_device(args)
        names = [str(configs_folder() / row.config) for row in TABLE_4.values()] if args.table4 else args.configs
        detectors = [named_config(name, tuple(args.size)) for name in names]
        images = find_images(args.images, args.runs * args.batch) if args.images else None
        given = DetectorInput(tuple(args.size), images, args.batch)
        entries = [detector_entry(cfg, name, device, given, args.checkpoint, DeployOptions.of(args))
                   for name, cfg in detectors]
        records = run_suite(entries, device, args.runs, out=args.out)
        report = detector_report(records, [cfg for _, cfg in detectors], given.size)
        report.print()
        if args.out:
            report.write(args.out)
