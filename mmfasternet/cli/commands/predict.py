"""Predict on an image, a folder of images or a video: writes drawn pictures and one JSON file."""

import argparse
from typing import Optional, Sequence

from mmfasternet.cli.options import add_trust_option, integer, make_parser, one_line_errors, trusting


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(
        __doc__, 'predict', 'data/shapes/val configs/mask_rcnn_fasternet_t0_shapes.py '
        'work_dirs/demo/epoch_5.pth')
    parser.add_argument('input', help='image file, folder of images, or video')
    parser.add_argument('config', help='config of a detector or a classifier: a file, or the name of one of our '
                                       'configs')
    parser.add_argument('checkpoint', help='checkpoint: a file, a URL or a name on the Hub')
    parser.add_argument('--out-dir', default='outputs', help='folder for the results (default: outputs)')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: the first GPU, else the CPU)')
    parser.add_argument('--score-thr', type=float, default=0.3, help='lowest score of a detection to keep (default: '
                                                                     '0.3)')
    parser.add_argument('--ann-file', help='COCO annotation file to take the ids of images and categories from, and '
                        'the objects, which are drawn next to the predictions (default: count ids from 1; frames of a '
                        'video always count from 0)')
    parser.add_argument('--batch-size', type=integer(1), default=1, help='images or frames at a time (default: 1)')
    add_trust_option(parser)
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors(), trusting(args):
        from mmfasternet.datasets.image_files import find_images
        from mmfasternet.datasets.video_files import is_video
        from mmfasternet.engine.config import load_config
        from mmfasternet.engine.device import set_threads
        from mmfasternet.engine.inference import predict, predict_video
        cfg = load_config(args.config)
        set_threads()
        how = (args.out_dir, args.device, args.score_thr, args.ann_file, args.batch_size)
        if is_video(args.input):
            predictions, video = predict_video(cfg, args.checkpoint, args.input, *how)
            print(f'{len(predictions)} predictions: see {args.out_dir}/predictions.json and {video}')
            return
        images = find_images(args.input)
        predictions = predict(cfg, args.checkpoint, images, *how)
        for row in predictions if 'classes' in (predictions or [{}])[0] else []:
            print(row['file_name'], *(f'{name} {score:.3f}' for name, score in zip(row['classes'], row['scores'])),
                  sep='  ')
        print(f'{len(images)} images, {len(predictions)} predictions: see {args.out_dir}')
