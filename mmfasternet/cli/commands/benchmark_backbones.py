"""Train detectors alike with several seeds, and compare their accuracy and latency."""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from mmfasternet.cli.config_options import ConfigOptions
from mmfasternet.cli.options import (
    AMP_TYPES,
    add_benchmark_options,
    integer,
    make_parser,
    one_line_errors,
    set_up_device,
    with_amp_type,
)


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(__doc__, 'benchmark backbones',
                         'configs/mask_rcnn_fasternet_t0_shapes.py --seeds 1 --cfg-options train_cfg.max_epochs=1 '
                         'train_cfg.val_interval=1')
    parser.add_argument('configs', nargs='+', metavar='CONFIG',
                        help='config files of detectors, with a validation at the end of the training')
    parser.add_argument('--seeds', type=integer(1), default=3, help='trainings of each config (default: 3)')
    parser.add_argument('--work-dir', default='work_dirs/backbones', metavar='DIR',
                        help='folder for checkpoints and logs (default: work_dirs/backbones); trainings that were '
                        'interrupted are resumed from there')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', default={},
                        help='replace values of all configs, such as train_dataloader.num_workers=4; '
                        'train_cfg.max_epochs does not change the learning rate schedule, which is set in '
                        'param_scheduler')
    parser.add_argument('--amp', nargs='?', choices=AMP_TYPES, help='train with automatic mixed precision of this type '
                                                                    '(needs a GPU)')
    parser.add_argument('--channels-last', action='store_true', help='train with channels-last weights and maps')
    parser.add_argument('--compile', action='store_true', help='train with torch.compile; implies --channels-last')
    parser.add_argument('--runs', type=integer(1), default=20, help='timed runs for the latency (default: 20)')
    add_benchmark_options(parser)
    args = parser.parse_args(with_amp_type(argv))
    if len({Path(config).stem for config in args.configs}) < len(args.configs):
        parser.error('config files must have different names, because records are stored under them')
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors():
        from mmfasternet.benchmark.backbones.comparison import compare
        from mmfasternet.engine.config import load_config
        device = set_up_device(args)
        flags = [*(['--amp', args.amp] if args.amp else ()),
                 *(['--channels-last'] if args.channels_last else ()), *(['--compile'] if args.compile else ())]
        configs = {Path(path).stem: load_config(path, args.cfg_options) for path in args.configs}
        out = args.out or str(Path(args.work_dir) / 'report')
        report = compare(configs, range(args.seeds), args.work_dir, out, device, flags, args.runs)
        report.print()
        print(f'report: {Path(out) / "report.html"}')
