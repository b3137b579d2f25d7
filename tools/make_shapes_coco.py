"""Generate a small instance segmentation data set in COCO's format: coloured shapes that overlap on clutter."""

from mmfasternet.cli.commands.make_shapes import main

if __name__ == '__main__':
    main()
