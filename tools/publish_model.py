"""Make a checkpoint ready to publish: without its training state, and with the hash of the file in its name."""

from mmfasternet.cli.commands.publish import main

if __name__ == '__main__':
    main()
