"""Run all measurements on this machine, the most important first: the paper's tables, inference forms, training."""

import argparse
import os
from pathlib import Path
from typing import Optional, Sequence

from mmfasternet.cli.options import make_parser, one_line_errors


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(__doc__, 'benchmark all', '--minutes 9 --out benchmarks/my-gpu')
    parser.add_argument('--minutes', type=float, default=30, help='time limit; what does not fit is left for another '
                        'call with the same --out (default: 30)')
    parser.add_argument('--out', metavar='DIR', required=True, help='folder for records, logs and reports')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: the first GPU, else the CPU)')
    parser.add_argument('--size', choices=['paper', 'small'], default='paper',
                        help='small: tiny images and few models, to try out every step (default: paper)')
    parser.add_argument('--steps', nargs='+', default=(), metavar='STEP', help='run only these steps (default: all)')
    reports = parser.add_mutually_exclusive_group()
    reports.add_argument('--no-reports', action='store_true', help='write records only, no reports')
    reports.add_argument('--only-reports', action='store_true', help='only write reports, from existing records')
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    # Asking whether there is a GPU must not start it here: the steps run in forks of this process.
    os.environ['PYTORCH_NVML_BASED_CUDA_CHECK'] = '1'
    with one_line_errors():
        from mmfasternet.benchmark.plan.run_all import run_all
        from mmfasternet.benchmark.plan.summary import summarize, write_reports
        from mmfasternet.files import check_folder
        out = Path(args.out)
        check_folder(out)
        if not args.only_reports:
            run_all(args.device, out, args.minutes * 60, args.size == 'small', args.steps)
            print(summarize(out))
        if not args.no_reports:
            print(f'reports: {write_reports(out)}')
