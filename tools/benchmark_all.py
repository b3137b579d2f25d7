"""Measure everything in one go, the most valuable first: the paper's tables, forms, training, on this machine."""

from mmfasternet.cli.commands.benchmark_all import main

if __name__ == '__main__':
    main()
