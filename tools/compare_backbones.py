"""Train detectors alike with several seeds, and compare their accuracy and latency."""

from mmfasternet.cli.commands.benchmark_backbones import main

if __name__ == '__main__':
    main()
