"""Time the inference forms of FasterNet's backbones and of whole detectors, and the published ones, side by side."""

from pathlib import Path

from mmfasternet.cli.options import DTYPES, add_device_options, add_trust_option, make_parser, one_line_errors, trusting


def parse_args():
    parser = make_parser(__doc__, 'python tools/benchmark_forms.py configs/fasternet_t0_in1k.py --threads 1')
    parser.add_argument('configs', nargs='+', metavar='CONFIG',
                        help='configs of classifiers, whose backbone is timed, or of detectors, which are timed whole')
    parser.add_argument('--checkpoint', help='weights of the one config given (default: random weights, by which a '
                        'two-stage detector finds objects)')
    image = parser.add_mutually_exclusive_group()
    image.add_argument('--size', nargs=2, type=int, metavar=('H', 'W'),
                       help='image size in pixels (default: 224 224 for a classifier, 800 1280 for a detector)')
    image.add_argument('--images', metavar='DIR', help='the first four images here, for detectors')
    parser.add_argument('--batch', type=int, default=1, help='images in a batch, for backbones (default: 1)')
    parser.add_argument('--dtypes', nargs='+', choices=DTYPES, default=['float32', 'bfloat16'],
                        help='types to compute in (default: float32 bfloat16)')
    parser.add_argument('--no-compile', action='store_true', help='leave out torch.compile, which takes minutes')
    add_device_options(parser)
    parser.add_argument('--rounds', type=int, help='rounds of the interleaved run (default: 20 for backbones, 5)')
    parser.add_argument('--out', metavar='DIR', help='write each table as JSON into this folder')
    add_trust_option(parser)
    args = parser.parse_args()
    if args.checkpoint and len(args.configs) > 1:
        parser.error('--checkpoint goes with one config')
    return args


def main():
    args = parse_args()
    with one_line_errors(), trusting(args):
        import torch
        from rich.console import Console

        from mmfasternet.benchmark.subjects.forms import measure_forms, results_table, write_results
        from mmfasternet.engine.config import load_config
        from mmfasternet.engine.device import set_threads
        set_threads(args.threads)
        for config in args.configs:
            name = Path(config).stem
            results = measure_forms(
                load_config(config), name, args.checkpoint, args.size, args.images, args.batch,
                [getattr(torch, dtype) for dtype in args.dtypes], not args.no_compile, args.device, args.rounds)
            Console(width=120).print(results_table(results))
            if args.out:
                write_results(results, Path(args.out) / f'{name}-forms.json')


if __name__ == '__main__':
    main()
