"""Export a classifier, a backbone or a detector to ONNX or OpenVINO, and check the files against PyTorch."""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from mmfasternet.cli.options import add_trust_option, make_parser, one_line_errors, trusting


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(
        __doc__, 'export', 'configs/mask_rcnn_fasternet_t0_shapes.py '
        'work_dirs/mask_rcnn_fasternet_t0_shapes/epoch_7.pth --format openvino --parts')
    parser.add_argument('config', help='config of a classifier or a detector: a file, or the name of one of ours')
    parser.add_argument('checkpoint', help='checkpoint: a file, a URL or a name on the Hub')
    parser.add_argument('--format', choices=['onnx', 'openvino'], default='onnx', help='(default: onnx)')
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--parts', action='store_true',
                      help='of a two-stage detector also the box and the mask head, for mmfasternet test '
                      'and benchmark detector (default: backbone, neck and RPN head)')
    what.add_argument('--end-to-end', '--whole', action='store_true',
                      help='a Faster or Mask R-CNN as one ONNX file, from image to boxes, scores, labels and masks')
    what.add_argument('--backbone', action='store_true', help='the backbone alone')
    parser.add_argument('--out', metavar='DIR', help='new folder for the files (default: work_dirs/CONFIG/FORMAT)')
    parser.add_argument('--images', metavar='DIR', help='images to check on beside random ones, as the config resizes '
                        'them (default: the first four of its test data, if they are there)')
    parser.add_argument('--tolerance', type=float, default=1e-4,
                        help='largest difference to PyTorch over the largest output that is accepted (default: 1e-4)')
    add_trust_option(parser)
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors(), trusting(args):
        from mmfasternet.deploy.export.exporting import export_model
        from mmfasternet.engine.building import build_model, real_images
        from mmfasternet.engine.config import load_config
        from mmfasternet.engine.device import set_threads
        set_threads()
        cfg = load_config(args.config)
        model = build_model(cfg, args.checkpoint)
        reports = export_model(
            model.backbone if args.backbone else model, args.out or str(Path(cfg.work_dir) / args.format), args.format,
            args.parts, args.end_to_end, real_images(cfg, model, args.images), args.tolerance, cfg.model)
        for report in reports:
            print(f'{report.file}: {report.bytes / 1e6:.2f} MB, {report.bytes / report.weight_bytes:.1%} of the '
                  f'weights; largest difference to PyTorch {report.difference:.1e}, {report.relative:.1e} of the '
                  f'largest output, on {report.checked} inputs')
