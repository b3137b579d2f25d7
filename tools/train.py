"""Train a detector or a classifier by a config."""

from mmfasternet.cli.commands.train import main

if __name__ == '__main__':
    main()
