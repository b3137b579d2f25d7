"""Fit PConv, DWConv and GConv to a ResNet-50's 3x3 convolutions (Table 2); count salient kernel positions (Fig. 6)."""

from mmfasternet.cli.commands.benchmark_approximation import main

if __name__ == '__main__':
    main()
