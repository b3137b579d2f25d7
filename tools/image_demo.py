"""Predict on an image, a folder of images or a video: writes drawn pictures and one JSON file."""

from mmfasternet.cli.commands.predict import main

if __name__ == '__main__':
    main()
