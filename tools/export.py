"""Export a classifier, a backbone or a detector to ONNX or OpenVINO, and check the files against PyTorch."""

from mmfasternet.cli.commands.export import main

if __name__ == '__main__':
    main()
