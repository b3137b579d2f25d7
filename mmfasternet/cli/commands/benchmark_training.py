"""Measure speed and memory of training, with and without speed-ups, and compare losses."""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from mmfasternet.cli.options import add_benchmark_options, integer, make_parser, one_line_errors, set_up_device

PAIR = ('mask_rcnn_fasternet_s_1x_coco.py', 'comparison/mask_rcnn_resnet50_1x_coco.py')
FORMS = ['plain', 'channels-last', 'channels-last+compile']
AMP_FORMS = ['{}', '{}+channels-last', '{}+channels-last+compile']


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(__doc__, 'benchmark training', '--batch 1 --runs 3 --size 320 512')
    parser.add_argument('configs', nargs='*', metavar='CONFIG',
                        help='config files of detectors (default: Mask R-CNN with FasterNet-S and with ResNet-50)')
    parser.add_argument('--forms', nargs='+', metavar='FORM',
                        help='plain, or float16 or bfloat16, channels-last and compile joined by + (default: all)')
    parser.add_argument('--size', nargs=2, type=integer(1), default=(800, 1333), metavar=('H', 'W'),
                        help='height and width of the random images in pixels (default: 800 1333)')
    parser.add_argument('--batch', type=integer(1), default=2, help='batch size (default: 2)')
    parser.add_argument('--runs', type=integer(1), default=10, help='timed steps (default: 10)')
    parser.add_argument('--curve', type=integer(1), metavar='STEPS',
                        help="also train this many steps on each config's own data, as mmfasternet train does, in each "
                        'form')
    add_benchmark_options(parser)
    args = parser.parse_args(argv)
    if len({Path(config).stem for config in args.configs}) < len(args.configs):
        parser.error('config files must have different names, because records are stored under them')
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors():
        import torch

        from mmfasternet.benchmark.harness.suite import run_suite
        from mmfasternet.benchmark.subjects.training_steps import (
            loss_curve,
            training_entry,
            training_report,
            write_losses,
        )
        from mmfasternet.config_files import configs_folder
        from mmfasternet.engine.config import load_config
        from mmfasternet.engine.speedups import SpeedUps, native_amp_types
        from mmfasternet.errors import UserError
        device = set_up_device(args)
        if args.curve and device.type == 'cpu' and torch.cuda.is_available():
            raise UserError('--curve trains on the GPU, as mmfasternet train does: to train on the CPU, set '
                            'CUDA_VISIBLE_DEVICES=')
        types = () if device.type == 'cpu' else native_amp_types()
        forms = args.forms or [*FORMS, *(form.format(dtype) for dtype in types for form in AMP_FORMS)]
        options = [SpeedUps.parse(form) for form in forms]
        paths = args.configs or [str(configs_folder() / name) for name in PAIR]
        configs = {Path(path).stem: load_config(path) for path in paths}
        entries = [training_entry(cfg, name, device, each, tuple(args.size), args.batch)
                   for name, cfg in configs.items() for each in options]
        losses = {}  # first, since they need data that may be missing
        for name, cfg in configs.items() if args.curve else ():
            losses[name] = {each.form: loss_curve(cfg, each, args.curve) for each in options}
            losses[name][f'{options[0].form}, another seed'] = loss_curve(cfg, options[0], args.curve, seed=1)
        records = run_suite(entries, device, args.runs, out=args.out)
        report = training_report(records, losses)
        report.print()
        if args.out:
            write_losses(losses, args.out)
            report.write(args.out)
