"""``python -m mmfasternet``: the command ``mmfasternet``, also if it is not on the PATH."""

from mmfasternet.cli.command import main

if __name__ == '__main__':
    main()
