"""Measure single convolutions (Table 1 of the paper, a roofline) and forms of partial convolution (Table 9)."""

from mmfasternet.cli.commands.benchmark_operators import main

if __name__ == '__main__':
    main()
