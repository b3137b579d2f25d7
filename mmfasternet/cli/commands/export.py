"""Export a classifier, a backbone or a detector to ONNX or OpenVINO, and check the files against PyTorch."""

import argparse
from pathlib import Path
from typing import Any, Optional, Sequence

from mmfasternet.cli.config_options import ConfigOptions
from mmfasternet.cli.options import add_trust_option, integer, make_parser, one_line_errors, trusting


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(
        __doc__, 'export', 'configs/mask_rcnn_fasternet_t0_shapes.py '
        'work_dirs/demo/epoch_5.pth --format openvino --parts')
    parser.add_argument('config', help='config of a classifier or a detector: a file, or the name of one of our '
                                       'configs')
    parser.add_argument('checkpoint', help='checkpoint: a file, a URL or a name on the Hub')
    parser.add_argument('--format', choices=['onnx', 'openvino'], default='onnx', help='(default: onnx)')
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--parts', action='store_true',
                      help='for a two-stage detector, export the box and mask heads as well, for mmfasternet test and '
                      'benchmark detector (default: backbone, neck and RPN head)')
    what.add_argument('--end-to-end', '--whole', action='store_true',
                      help='export a Faster or Mask R-CNN or an RTMDet as one ONNX file, from image to boxes, scores, '
                           'labels and masks')
    what.add_argument('--backbone', action='store_true', help='export the backbone only')
    parser.add_argument('--dtype', choices=['float32', 'int8'], default='float32',
                        help='int8: quantise the layers with weights, with NNCF (OpenVINO) or ONNX Runtime (ONNX); the '
                             'drop in AP or top-1 is reported and must not exceed --accuracy-drop (default: float32)')
    parser.add_argument('--calibration', metavar='DIR', help='images to calibrate int8 on, as the config resizes them, '
                        "also in folders of DIR (default: the config's training data)")
    parser.add_argument('--calibration-images', type=integer(1), metavar='N',
                        help='how many images to calibrate on, spread over all (default: 300)')
    accuracy = parser.add_mutually_exclusive_group()
    accuracy.add_argument('--accuracy-drop', type=float, metavar='X',
                          help='accepted drop of AP or top-1 with int8, from 0 to 1 (default: 0.01); if given with '
                               '--format openvino, NNCF reverts layers to float32 until it is met')
    accuracy.add_argument('--no-accuracy', action='store_true', help="do not evaluate on the config's validation data")
    parser.add_argument('--out', metavar='DIR', help='new folder for the files (default: work_dirs/CONFIG/FORMAT, for '
                        'int8 work_dirs/CONFIG/FORMAT-int8)')
    parser.add_argument('--images', metavar='DIR', help='images to check on in addition to random ones, as the config '
                                                        'resizes them (default: the first four of its test data, if '
                                                        'available)')
    parser.add_argument('--tolerance', type=float, default=1e-4,
                        help='accepted difference from PyTorch, relative to the largest output; with int8, that of the '
                             'float32 files it is made from (default: 1e-4)')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE',
                        help='replace values of the config, such as the path of its data')
    add_trust_option(parser)
    args = parser.parse_args(argv)
    of_int8 = (args.calibration, args.calibration_images, args.accuracy_drop, args.no_accuracy or None)
    if args.dtype != 'int8' and any(given is not None for given in of_int8):
        parser.error('--calibration, --calibration-images, --accuracy-drop and --no-accuracy need --dtype int8')
    if args.accuracy_drop is not None and not 0 <= args.accuracy_drop <= 1:
        parser.error('--accuracy-drop must be from 0 to 1: 0.01 is one point of AP, or 1 % of top-1')
    if args.dtype == 'int8' and args.end_to_end:
        parser.error('--dtype int8 does not work with --end-to-end, which exports more than networks: use --parts')
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors(), trusting(args):
        from mmfasternet.engine.building import build_model
        from mmfasternet.engine.config import load_config
        from mmfasternet.engine.device import set_threads
        set_threads()
        cfg = load_config(args.config, args.cfg_options)
        model = build_model(cfg, args.checkpoint)
        if args.dtype == 'int8':
            _export_int8(args, cfg, model)
        else:
            _export(args, cfg, model)


def _export(args: argparse.Namespace, cfg: Any, model: Any) -> None:
    from mmfasternet.deploy.export.exporting import export_model
    from mmfasternet.engine.building import real_images
    reports = export_model(
        model.backbone if args.backbone else model, args.out or str(Path(cfg.work_dir) / args.format), args.format,
        args.parts, args.end_to_end, real_images(cfg, model, args.images), args.tolerance, cfg.model)
    for report in reports:
        print(f'{report.file}: {report.bytes / 1e6:.2f} MB, {report.bytes / report.weight_bytes:.1%} of the weights; '
              f'largest difference from PyTorch {report.difference:.1e}, {report.relative:.1e} of the largest output, '
              f'on {report.checked} inputs')


def _export_int8(args: argparse.Namespace, cfg: Any, model: Any) -> None:
    from mmfasternet.deploy.export.int8 import export_int8
    from mmfasternet.engine.building import calibration_batches, real_images
    from mmfasternet.engine.exported_accuracy import accuracy_of
    searches = args.accuracy_drop is not None and args.format == 'openvino'
    report = export_int8(
        model, args.out or str(Path(cfg.work_dir) / f'{args.format}-int8'),
        calibration_batches(cfg, args.calibration, args.calibration_images or 300), args.format, parts=args.parts,
        backbone=args.backbone, evaluate=None if args.no_accuracy else accuracy_of(cfg, model),
        max_drop=0.01 if args.accuracy_drop is None else args.accuracy_drop, search=searches,
        images=real_images(cfg, model, args.images), tolerance=args.tolerance, model_cfg=cfg.model)
    for part in report.parts:
        print(f'{part.file}: {part.bytes / 1e6:.2f} MB, {part.bytes / part.float32_bytes:.1%} of the float32 file; '
              f'{len(part.layers.int8)} layers in int8, {len(part.layers.float32)} in float32; difference from float32 '
              f'{part.relative:.1%} of the output (by norm)')
    for name, (before, after) in report.accuracy.items():
        print(f'{name}: {before:.3f} in float32, {after:.3f} in int8')
