"""Go the whole way in minutes on a CPU: digits, then a detector of shapes, its accuracy, pictures and latency."""

from mmfasternet.cli.commands.demo import main

if __name__ == '__main__':
    main()
