"""Measure speed and memory of training, with and without speed-ups, and compare losses."""

from mmfasternet.cli.commands.benchmark_training import main

if __name__ == '__main__':
    main()
