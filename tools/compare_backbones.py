"""Train detectors alike, over several seeds, and show their accuracy beside their latency."""

from mmfasternet.cli.commands.benchmark_backbones import main

if __name__ == '__main__':
    main()
