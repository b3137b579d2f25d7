"""Compare latency and throughput of classifiers: those of Table 3 of the paper and other compact ones."""

from mmfasternet.cli.commands.benchmark_classifier import main

if __name__ == '__main__':
    main()
