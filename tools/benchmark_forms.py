"""Compare the latency of the inference forms of FasterNet's backbones and of detectors, and of the published forms."""

from mmfasternet.cli.commands.benchmark_forms import main

if __name__ == '__main__':
    main()
