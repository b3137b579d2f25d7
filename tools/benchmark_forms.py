"""Time the inference forms of FasterNet's backbones and of detectors, and the published ones, side by side."""

from mmfasternet.cli.commands.benchmark_forms import main

if __name__ == '__main__':
    main()
