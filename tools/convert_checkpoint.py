"""Convert FasterNet weights between the authors' layout, timm's and ours."""

from mmfasternet.cli.commands.convert import main

if __name__ == '__main__':
    main()
