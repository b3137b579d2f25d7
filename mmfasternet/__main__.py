"""``python -m mmfasternet``, the command ``mmfasternet`` where it is not on the path."""

from mmfasternet.cli.command import main

if __name__ == '__main__':
    main()
