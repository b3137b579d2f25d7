"""Compare the latency of the inference forms of FasterNet's backbones and of detectors, and of the published forms."""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from mmfasternet.cli.options import (
    DTYPES,
    add_benchmark_options,
    add_trust_option,
    integer,
    make_parser,
    one_line_errors,
    set_up_device,
    trusting,
)


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(__doc__, 'benchmark forms', 'configs/fasternet_t0_in1k.py --threads 1')
    parser.add_argument('configs', nargs='+', metavar='CONFIG',
                        help='configs of classifiers (the backbone is timed) or of detectors (timed end-to-end)')
    parser.add_argument('--checkpoint', help='weights for a single config (default: random weights with which a '
                        'two-stage detector finds objects)')
    image = parser.add_mutually_exclusive_group()
    image.add_argument('--size', nargs=2, type=integer(1), metavar=('H', 'W'),
                       help='image size in pixels (default: 224 224 for a classifier, 800 1280 for a detector)')
    image.add_argument('--images', metavar='DIR', help='folder whose first four images detectors are timed on')
    parser.add_argument('--batch', type=integer(1), default=1, help='batch size, for backbones (default: 1)')
    parser.add_argument('--dtypes', nargs='+', choices=[*DTYPES, 'int8'],
                        default=['float32', 'bfloat16'],
                        help='types to compute in; int8 with ONNX Runtime and OpenVINO (default: float32 bfloat16)')
    parser.add_argument('--no-compile', action='store_true', help='skip torch.compile, which takes minutes')
    parser.add_argument('--rounds', type=integer(1),
                        help='rounds of the interleaved run (default: 20 for backbones, 5 for detectors)')
    add_benchmark_options(parser)
    add_trust_option(parser)
    args = parser.parse_args(argv)
    if args.checkpoint and len(args.configs) > 1:
        parser.error('--checkpoint needs exactly one config')
    if len({Path(config).stem for config in args.configs}) < len(args.configs):
        parser.error('config files must have different names, because records are stored under them')
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors(), trusting(args):
        import torch

        from mmfasternet.benchmark.subjects.forms import form_report, measure_forms
        from mmfasternet.engine.config import load_config
        device = set_up_device(args)
        dtypes = [getattr(torch, dtype) for dtype in args.dtypes]
        for config in args.configs:
            name = Path(config).stem
            out = Path(args.out) / name if args.out else None
            report = form_report(measure_forms(
                load_config(config), name, device, args.checkpoint, args.size, args.images, args.batch, dtypes,
                not args.no_compile, args.rounds, out))
            report.print()
            if out:
                report.write(out)
