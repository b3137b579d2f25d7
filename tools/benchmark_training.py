"""Measure images per second and memory of training, plain and with what makes it faster, and compare losses."""

from mmfasternet.cli.commands.benchmark_training import main

if __name__ == '__main__':
    main()
