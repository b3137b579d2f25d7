"""Evaluate a checkpoint: box and mask AP of a detector, top-1 and top-5 of a classifier."""

import argparse
import time
from typing import Optional, Sequence

from mmfasternet.cli.options import (
    add_deploy_options,
    add_run_options,
    make_parser,
    one_line_errors,
    set_local_rank,
    trusting,
)


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(
        __doc__, 'test', 'configs/mask_rcnn_fasternet_t0_shapes.py '
        'work_dirs/demo/epoch_5.pth')
    parser.add_argument('config', help='config file, or the name of one of our configs')
    parser.add_argument('checkpoint', help='checkpoint: a file, a URL or a name on the Hub; or a folder that '
                        'mmfasternet export made')
    add_run_options(parser)
    parser.add_argument('--out', metavar='FILE.pkl', help='write the raw predictions to this pickle file')
    parser.add_argument('--show-dir', metavar='DIR', help='draw the predictions next to the ground truth into this '
                                                          'folder')
    parser.add_argument('--tta', action='store_true', help='average over an image and its mirror image (test-time '
                                                           'augmentation)')
    add_deploy_options(parser)
    args = parser.parse_args(argv)
    set_local_rank(args)
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors(), trusting(args):
        from mmfasternet.cli.metrics import print_metrics
        from mmfasternet.engine.config import load_config
        from mmfasternet.engine.deploying import DeployOptions
        from mmfasternet.engine.device import set_threads
        from mmfasternet.engine.outputs import metric_types, written_results
        from mmfasternet.engine.processes import is_first_process
        from mmfasternet.engine.run_options import TestOptions
        from mmfasternet.engine.train_test import test
        cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
        set_threads()
        began = time.time()
        metrics = test(cfg, TestOptions(args.checkpoint, args.out, args.show_dir, args.tta, DeployOptions.of(args)))
        if is_first_process():
            print_metrics(metrics, metric_types(cfg.test_evaluator), written_results(cfg.test_evaluator, began))
