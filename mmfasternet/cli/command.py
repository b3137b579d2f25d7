"""The command ``mmfasternet``: ``mmfasternet train``, ``mmfasternet test`` and so on.

The list of commands comes without importing them, or PyTorch.
"""

import difflib
import sys
from importlib import import_module
from typing import Optional, Sequence

from mmfasternet.calling import called_as
from mmfasternet.version import __version__

#: What each command does, in the order of their list; ``'benchmark all'`` is the module ``benchmark_all``.
COMMANDS = {
    'train': 'train a detector or a classifier by a config',
    'test': 'box and mask AP of a detector, top-1 and top-5 accuracy of a classifier',
    'predict': 'what is on images: drawn pictures and a json file',
    'export': 'ONNX and OpenVINO files, checked against PyTorch',
    'convert': "weights between the authors' layout, timm's and ours",
    'publish': 'a checkpoint without the state of its training, its hash in its name',
    'flops': 'parameters and multiply-adds, part by part',
    'configs': 'names of the configs, or the path of one',
    'make-shapes': "a small data set in COCO's format: coloured shapes",
    'make-nuclei': "nuclei of the 2018 Data Science Bowl, as downloaded, in COCO's format",
    'benchmark detector': 'latency of detectors from image to masks, and of their parts',
    'benchmark classifier': 'latency and throughput of classifiers (Table 3)',
    'benchmark forms': 'inference forms side by side',
    'benchmark operators': 'convolutions (Table 1) and forms of partial convolution (Table 9)',
    'benchmark backbones': 'detectors trained alike: accuracy over seeds beside latency',
    'benchmark training': 'time and memory of training, and its losses',
    'benchmark approximation': "PConv fitted to a ResNet-50's convolutions (Table 2)",
    'benchmark all': 'everything on this machine, in one go',
}


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command that the arguments begin with; without one, list all.

    Args:
        argv: The arguments. Defaults to None: those of the command line.

    Raises:
        SystemExit: With the command's status; 2 if there is no such command.
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
        hint = f'Near it: {", ".join(near)}. ' if near else ''
        print(f"error: there is no command '{command}'. {hint}{called_as('--help')} lists all", file=sys.stderr)
        sys.exit(2)


def _listed(group: str) -> str:
    """The commands of a group, each with what it does."""
    rows = {command.removeprefix(group): what for command, what in COMMANDS.items() if command.startswith(group)}
    width = max(map(len, rows))
    return '\n'.join([f'usage: {called_as(group)}COMMAND ...', '',
                      *(f'  {command:{width}}  {what}' for command, what in rows.items()), '',
                      f'{called_as(group)}COMMAND --help shows options and an example; '
                      f'{called_as("--version")} the version'])
