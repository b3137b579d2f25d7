"""Generate a small instance segmentation dataset in COCO format: overlapping coloured shapes on clutter."""

from mmfasternet.cli.commands.make_shapes import main

if __name__ == '__main__':
    main()
