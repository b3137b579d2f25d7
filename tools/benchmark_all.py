"""Run all measurements on this machine, the most important first: the paper's tables, inference forms, training."""

from mmfasternet.cli.commands.benchmark_all import main

if __name__ == '__main__':
    main()
