"""Evaluate a checkpoint: box and mask AP of a detector, top-1 and top-5 of a classifier."""

from mmfasternet.cli.commands.test import main

if __name__ == '__main__':
    main()
