"""Measure single convolutions (Table 1 of the paper, a roofline) and forms of partial convolution (Table 9)."""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from mmfasternet.cli.options import (
    add_benchmark_options,
    add_dtype_option,
    add_graphs_option,
    integer,
    make_parser,
    one_line_errors,
    set_up_device,
)


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = make_parser(__doc__, 'benchmark operators', '--threads 1')
    parser.add_argument('--table', choices=['1', '9'], help='only this table (default: both)')
    parser.add_argument('--batch', type=integer(1),
                        help='batch size (default: as in the paper, 1 on a CPU, 32 on a GPU)')
    parser.add_argument('--runs', type=integer(1), default=50, help='timed runs (default: 50)')
    add_dtype_option(parser, 'type of weights and maps (default: float32)')
    parser.add_argument('--channels-last', action='store_true', help='use channels-last maps for Table 1')
    add_graphs_option(parser, 'replay each entry as a CUDA graph, without kernel launches')
    add_benchmark_options(parser)
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors():
        import torch

        from mmfasternet.benchmark.harness.suite import replayed, run_suite
        from mmfasternet.benchmark.subjects.operators import operator_entries, operator_report
        from mmfasternet.benchmark.subjects.partial_conv import partial_conv_entries, partial_conv_report
        device, dtype = set_up_device(args), getattr(torch, args.dtype)
        batch = (1 if device.type == 'cpu' else 32) if args.batch is None else args.batch
        memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
        suites = {'1': (lambda: operator_entries(device, batch, dtype, memory_format), operator_report),
                  '9': (lambda: partial_conv_entries(device, batch, dtype), partial_conv_report)}
        for table in args.table or suites:
            make_entries, make_report = suites[table]
            out = Path(args.out) / f'table-{table}' if args.out else None
            entries = [replayed(entry) if args.cuda_graphs else entry for entry in make_entries()]
            report = make_report(run_suite(entries, device, args.runs, out=out))
            report.print()
            if out:
                report.write(out)
