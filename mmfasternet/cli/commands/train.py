"""Train a detector or a classifier from a config."""

import argparse
from typing import Optional, Sequence

from mmfasternet.cli.options import (
    AMP_TYPES,
    add_run_options,
    make_parser,
    one_line_errors,
    set_local_rank,
    trusting,
    with_amp_type,
)


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(__doc__, 'train', 'configs/mask_rcnn_fasternet_t0_shapes.py')
    parser.add_argument('config', help='config file, or the name of one of our configs')
    add_run_options(parser)
    parser.add_argument('--amp', nargs='?', choices=AMP_TYPES,
                        help='automatic mixed precision of this type (needs a GPU; auto, the default type: bfloat16 '
                             'where the GPU supports it, else float16)')
    parser.add_argument('--channels-last', action='store_true', help='use channels-last weights and maps')
    parser.add_argument('--compile', action='store_true',
                        help='compile backbone and neck with torch.compile; implies --channels-last')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate by the actual batch size over the base batch size of the config')
    parser.add_argument('--deterministic', action='store_true',
                        help='use deterministic operators, and seed 0 unless the config sets another')
    parser.add_argument('--skip-nan', action='store_true',
                        help='skip batches whose loss is NaN or infinite, up to ten in a row, instead of stopping')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help="continue from this checkpoint, or from the work folder's newest complete one")
    args = parser.parse_args(with_amp_type(argv))
    set_local_rank(args)
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors(), trusting(args):
        from mmfasternet.engine.config import load_config
        from mmfasternet.engine.device import set_threads
        from mmfasternet.engine.run_options import TrainOptions
        from mmfasternet.engine.speedups import SpeedUps
        from mmfasternet.engine.train_test import train
        cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
        set_threads()
        train(cfg, TrainOptions(args.resume, args.auto_scale_lr, args.deterministic, args.skip_nan, SpeedUps.of(args)))
