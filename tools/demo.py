"""Run the whole pipeline in minutes on a CPU: pre-training on digits, a detector of shapes, accuracy, latency."""

from mmfasternet.cli.commands.demo import main

if __name__ == '__main__':
    main()
