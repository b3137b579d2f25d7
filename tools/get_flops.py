"""Count parameters and multiply-adds of classifiers and detectors, part by part."""

from mmfasternet.cli.commands.flops import main

if __name__ == '__main__':
    main()
