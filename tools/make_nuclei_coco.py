"""Make a dataset in COCO format from the nuclei of the 2018 Data Science Bowl (stage1_train, also BBBC038)."""

from mmfasternet.cli.commands.make_nuclei import main

if __name__ == '__main__':
    main()
