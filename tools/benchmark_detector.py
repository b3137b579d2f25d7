"""Measure the latency of whole detectors at batch 1, from image to boxes and masks."""

from pathlib import Path

from mmfasternet.engine.cli import add_deploy_options, add_trust_option, make_parser, one_line_errors, trusting


def parse_args():
    parser = make_parser(__doc__, 'python tools/benchmark_detector.py configs/mask_rcnn_fasternet_t0_1x_coco.py')
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config files of detectors')
    parser.add_argument('--checkpoint', help='weights of the one config given, or a folder that tools/export.py '
                        'made (default: random weights)')
    image = parser.add_mutually_exclusive_group()
    image.add_argument('--size', nargs=2, type=int, default=(800, 1280), metavar=('H', 'W'),
                       help='height and width of a random image in pixels (default: 800 1280)')
    image.add_argument('--images', metavar='DIR',
                       help="images to take in turn, resized by the config's test pipeline (default: a random one)")
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: the first GPU, else the CPU)')
    parser.add_argument('--runs', type=int, default=20, help='timed runs (default: 20)')
    add_deploy_options(parser)
    add_trust_option(parser)
    args = parser.parse_args()
    if args.checkpoint and len(args.configs) > 1:
        parser.error('--checkpoint goes with one config')
    return args


def main():
    args = parse_args()
    with one_line_errors(), trusting(args):
        from mmfasternet.benchmark.detector import measure_detector
        from mmfasternet.engine.config import load_config
        from mmfasternet.engine.deploying import DeployOptions
        from mmfasternet.engine.inference import find_images
        images = find_images(args.images) if args.images else None
        for config in args.configs:
            print(measure_detector(load_config(config), Path(config).stem, args.checkpoint, tuple(args.size), images,
                                   args.device, args.runs, DeployOptions.of(args)))


if __name__ == '__main__':
    main()
