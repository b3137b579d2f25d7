"""Options and one-line errors shared by the commands."""

import argparse
import os
import re
import sys
import time
import warnings
from contextlib import contextmanager
from typing import Any, Callable, ContextManager, Iterator, List, Optional, Sequence

from mmfasternet.calling import called_as
from mmfasternet.cli.config_options import ConfigOptions
from mmfasternet.cli.quiet_imports import quiet_imports
from mmfasternet.errors import UserError
from mmfasternet.files import OF_PLACES, WRITING, cannot_write, check_folder, place_of, reason_of
from mmfasternet.installed import missing

#: Types to compute in, as PyTorch calls them.
DTYPES = ('float32', 'bfloat16', 'float16')
#: Of ``--amp``.
AMP_TYPES = ('auto', 'float16', 'bfloat16')
#: Seconds that a process waits for the first one to report the error that it has met, too.
_PATIENCE = 30


def make_parser(description: str, command: str, example: str) -> argparse.ArgumentParser:
    """A parser whose ``--help`` ends with a working example, in the way the user calls the command.

    Args:
        description: What the command does.
        command: Its name, such as ``'train'``.
        example: Its arguments. Called without a script, there is no folder of
            configs either, so configs are given by name.
    """
    called = called_as(command)
    if called.endswith(f'mmfasternet {command}'):
        example = re.sub(r'\bconfigs/(\w+)\.py', r'\1', example)
    return argparse.ArgumentParser(called, description=description, epilog=f'example: {called} {example}',
                                   formatter_class=argparse.RawDescriptionHelpFormatter)


def integer(least: int) -> Callable[[str], int]:
    """The type of an option that is an integer of at least ``least``."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f'must be an integer of at least {least}, got {text}')
        return value

    return read


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options shared by training and testing."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/CONFIG)')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE',
                        help='replace values of the config, such as train_dataloader.batch_size=4; a list is [A, B]')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='launcher of a distributed run (default: none)')
    add_trust_option(parser)
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """The option that allows checkpoints with more than plain data."""
    parser.add_argument('--trust-checkpoint', action='store_true',
                        help='load checkpoints even if they hold more than plain data: code in such a file then runs '
                             'with your permissions. Only for files from a source you trust')


def add_deploy_options(parser: argparse.ArgumentParser) -> None:
    """The options that convert a model to its inference form."""
    parser.add_argument('--deploy', action='store_true',
                        help="use the inference form: norms folded, channels-last, FasterNet's blocks without copies")
    add_dtype_option(parser, 'compute in this type (default: float32); implies --deploy')
    parser.add_argument('--compile', action='store_true',
                        help='compile backbone, neck and dense head with torch.compile; implies --deploy')
    add_graphs_option(parser, 'replay the networks as CUDA graphs on a GPU; implies --deploy')


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """The options that choose the device."""
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: the first GPU, else the CPU)')
    parser.add_argument('--threads', type=integer(1),
                        help='threads on a CPU (default: the number of cores that this process may use)')


def add_dtype_option(parser: argparse.ArgumentParser, help: str) -> None:
    """The option that chooses the type to compute in."""
    parser.add_argument('--dtype', choices=DTYPES, default='float32', help=help)


def add_graphs_option(parser: argparse.ArgumentParser, help: str) -> None:
    """The option that replays CUDA graphs instead of launching kernels."""
    parser.add_argument('--cuda-graphs', action='store_true', help=help)


def with_amp_type(argv: Optional[Sequence[str]]) -> List[str]:
    """The arguments with a type for each ``--amp``: argparse would take the next one as its type, even a config."""
    words = list(sys.argv[1:] if argv is None else argv)
    return [f'{word}=auto' if word == '--amp' and following not in AMP_TYPES else word
            for word, following in zip(words, [*words[1:], ''])]


def add_benchmark_options(parser: argparse.ArgumentParser) -> None:
    """The options shared by benchmarks."""
    add_device_options(parser)
    parser.add_argument('--tf32', choices=['on', 'off', 'convolutions'], default='convolutions',
                        help="where a GPU may round float32 to TF32 (default: convolutions, PyTorch's default)")
    parser.add_argument('--out', metavar='DIR', help='write records, tables and plots to this folder; an interrupted '
                                                     'run continues from the records there')


def set_up_device(args: argparse.Namespace) -> Any:
    """The device of a benchmark, with the threads and the TF32 setting of the command line.

    Raises:
        UserError: If the device does not exist, graphs are requested on a CPU,
            or ``--out`` can't be written.
    """
    if args.out:
        check_folder(args.out)
    from mmfasternet.deploy.tf32 import set_tf32
    from mmfasternet.engine.device import find_device, set_threads
    device = find_device(args.device)
    if getattr(args, 'cuda_graphs', False) and device.type == 'cpu':
        raise UserError('--cuda-graphs needs a GPU: run without it')
    set_threads(args.threads)
    set_tf32(args.tf32)
    return device


def trusting(args: argparse.Namespace) -> ContextManager[None]:
    """Within it, checkpoints are trusted if ``--trust-checkpoint`` is given."""
    from mmfasternet.checkpoints import trust_checkpoints
    from mmfasternet.engine.processes import is_first_process
    if args.trust_checkpoint and is_first_process():
        print('warning: --trust-checkpoint: code in a checkpoint will run', file=sys.stderr)
    return trust_checkpoints(args.trust_checkpoint)


def set_local_rank(args: argparse.Namespace) -> None:
    """Launchers pass the local rank as a flag or in the environment; MMEngine reads the environment."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line and status 1 on a :class:`UserError`; other errors keep their traceback.

    So does a missing module that belongs to an extra. Remarks on packages that
    are missing and not needed are not printed.
    """
    try:
        with warnings.catch_warnings(), quiet_imports():
            warnings.filterwarnings('ignore', message='faster_coco_eval')  # an evaluator that is not used here
            yield
    except KeyboardInterrupt as interrupt:
        print(f'\ninterrupted{f": {interrupt}" if str(interrupt) else ""}', file=sys.stderr)
        sys.exit(130)  # as shells say it
    except OSError as error:
        place = place_of(error)
        if error.errno in WRITING:
            _end(cannot_write(place or 'a file', error))
        if error.errno not in OF_PLACES or not place:
            raise
        _end(f"'{place}' can't be read or written: {reason_of(error, place)}")
    except ModuleNotFoundError as error:
        if not missing(error):
            raise
        _end(missing(error))
    except UserError as error:
        # A data loader's worker sends its traceback along; the error itself is the last line.
        line = str(error).strip().splitlines()[-1]
        _end(line.removeprefix(f'mmfasternet.errors.{type(error).__name__}: '))


def _end(line: str) -> None:
    """End the program with an error; of several processes, the first one reports it.

    Launchers end all processes as soon as one fails. The others therefore
    give the first one time to fail as well, and report the error if it does
    not.
    """
    from mmfasternet.engine.processes import is_first_process
    if not is_first_process():
        time.sleep(_PATIENCE)
    print(f'error: {line}', file=sys.stderr)
    sys.exit(1)
