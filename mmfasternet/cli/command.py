"""The command ``mmfasternet``: ``mmfasternet train``, ``mmfasternet test`` and so on.

Listing the commands imports neither them nor PyTorch.
"""

import difflib
import sys
from importlib import import_module
from typing import Optional, Sequence

from mmfasternet.calling import called_as
from mmfasternet.version import __version__

#: What each command does, in the order of their list; ``'benchmark all'`` is the module ``benchmark_all``.
COMMANDS = {
    'train': 'train a detector or a classifier from a config',
    'test': 'box and mask AP of a detector, top-1 and top-5 accuracy of a classifier',
    'predict': 'predict on images or a video: drawn pictures and a JSON file',
    'export': 'ONNX and OpenVINO files, checked against PyTorch',
    'convert': "weights between the authors' layout, timm's and ours",
    'publish': 'a checkpoint without its training state, with its hash in its name',
    'flops': 'parameters and multiply-adds, part by part',
    'configs': 'names of all configs, or the path of one',
    'demo': 'two trainings, an evaluation, pictures and latency, in minutes',
    'make-shapes': "a small dataset in COCO format: coloured shapes",
    'make-nuclei': 'a dataset in COCO format from the nuclei of the 2018 Data Science Bowl',
    'benchmark detector': 'latency of detectors from image to masks, and of their parts',
    'benchmark classifier': 'latency and throughput of classifiers (Table 3)',
    'benchmark forms': 'inference forms compared',
    'benchmark operators': 'convolutions (Table 1) and forms of partial convolution (Table 9)',
    'benchmark backbones': 'detectors trained alike: accuracy over several seeds, and latency',
    'benchmark training': 'time and memory of training, and its losses',
    'benchmark approximation': "PConv fitted to a ResNet-50's convolutions (Table 2)",
    'benchmark all': 'all measurements on this machine',
}


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command that the arguments name; without one, list all commands.

    Args:
        argv: The arguments. Defaults to None: those on the command line.

    Raises:
        SystemExit: With the command's exit status; 2 if there is no such
            command.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    group = f'{words.pop(0)} ' if words[:1] == ['benchmark'] else ''
    command = group + ''.join(words[:1])
    if command in COMMANDS:
        module = command.replace(' ', '_').replace('-', '_')
        import_module(f'mmfasternet.cli.commands.{module}').main(words[1:])
    elif command == '--version':
        print(f'mmfasternet {__version__}')
    elif not words or words[0] in ('-h', '--help'):
        print(_listed(group))
    else:
        near = difflib.get_close_matches(command, COMMANDS)
        hint = f'Similar names: {", ".join(near)}. ' if near else ''
        print(f"error: there is no command '{command}'. {hint}To list all: {called_as('--help')}", file=sys.stderr)
        sys.exit(2)


def _listed(group: str) -> str:
    """The commands of a group, each with what it does."""
    rows = {command.removeprefix(group): what for command, what in COMMANDS.items() if command.startswith(group)}
    width = max(map(len, rows))
    return '\n'.join([f'usage: {called_as(group)}COMMAND ...', '',
                      *(f'  {command:{width}}  {what}' for command, what in rows.items()), '',
                      f'{called_as(group)}COMMAND --help shows options and an example; '
                      f'{called_as("--version")} the version'])
