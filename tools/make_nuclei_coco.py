"""Make a data set in COCO's format of the 2018 Data Science Bowl's nuclei (stage1_train, also BBBC038)."""

from mmfasternet.cli.commands.make_nuclei import main

if __name__ == '__main__':
    main()
