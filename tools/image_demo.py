"""Predict what is on an image or on all images of a folder: drawn pictures and one json file."""

from mmfasternet.cli.commands.predict import main

if __name__ == '__main__':
    main()
