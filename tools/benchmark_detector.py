"""Compare the end-to-end latency of detectors, from image to boxes and masks, and of their parts."""

from mmfasternet.cli.commands.benchmark_detector import main

if __name__ == '__main__':
    main()
