"""Make a checkpoint ready to publish: without the state of its training, and with the hash of the file in its name."""

from mmfasternet.cli.options import add_trust_option, make_parser, one_line_errors, trusting


def parse_args():
    parser = make_parser(
        __doc__, 'python tools/publish_model.py work_dirs/mask_rcnn_fasternet_t0_shapes/epoch_7.pth '
        'mask_rcnn_fasternet_t0_shapes.pth')
    parser.add_argument('input', help='checkpoint file or URL')
    parser.add_argument('output', help='name of the new file, to which the hash is added: NAME-1a2b3c4d.pth')
    add_trust_option(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    with one_line_errors(), trusting(args):
        from mmfasternet.checkpoints import publish_checkpoint
        path = publish_checkpoint(args.input, args.output)
        print(f'{path} ({path.stat().st_size / 1e6:.1f} MB)')


if __name__ == '__main__':
    main()
