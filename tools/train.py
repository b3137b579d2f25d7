"""Train a detector or a classifier from a config."""

from mmfasternet.cli.commands.train import main

if __name__ == '__main__':
    main()
