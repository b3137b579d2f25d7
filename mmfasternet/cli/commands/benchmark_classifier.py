"""Compare latency and throughput of classifiers: those of Table 3 of the paper and other compact ones."""

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
    parser = make_parser(__doc__, 'benchmark classifier', 'FasterNet-T0 timm:resnet18 --threads 1')
    parser.add_argument('networks', nargs='*', metavar='NETWORK', help='names of networks, or timm:NAME for any '
                                                                       "network of timm's (default: all that have a "
                                                                       'name here)')
    parser.add_argument('--batches', nargs='+', type=integer(1), metavar='N',
                        help='batch sizes, one run each (default: 1 as in the paper, and on a GPU also 32)')
    parser.add_argument('--runs', type=integer(1), default=20,
                        help='timed runs; on a CPU a fifth of them for batches of more than one image (default: 20)')
    add_dtype_option(parser, 'type of weights and images (default: float32)')
    parser.add_argument('--deploy', action='store_true', help='run FasterNet in its inference form, the others '
                                                              'unchanged')
    add_graphs_option(parser, 'replay each network as a CUDA graph, without kernel launches')
    add_benchmark_options(parser)
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_line_errors():
        import torch

        from mmfasternet.benchmark.harness.suite import replayed, run_suite
        from mmfasternet.benchmark.subjects.classifiers import classifier_entry, classifier_report, find_networks
        device = set_up_device(args)
        networks = find_networks(args.networks)
        records = {}
        for batch in args.batches or ([1] if device.type == 'cpu' else [1, 32]):
            entries = [classifier_entry(network, device, batch, getattr(torch, args.dtype), args.deploy)
                       for network in networks]
            if args.cuda_graphs:
                entries = [replayed(entry) for entry in entries]
            runs = max(args.runs // 5, 1) if batch > 1 and device.type == 'cpu' else args.runs
            out = Path(args.out) / f'batch-{batch}' if args.out else None
            records[batch] = run_suite(entries, device, runs, out=out)
        report = classifier_report(networks, records)
        report.print()
        if args.out:
            report.write(args.out)
