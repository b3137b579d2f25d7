"""Latency, throughput and accuracy of classifiers: Table 3 and Fig. 2, 7 and 8 of the paper."""

from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor, nn

from mmfasternet.benchmark.complexity import COUNTED_WITH_NORMS, Complexity, count_multiply_adds
from mmfasternet.benchmark.harness.conditions import Conditions
from mmfasternet.benchmark.harness.records import LatencyRecord, failures, runs_of
from mmfasternet.benchmark.harness.suite import Entry, Subject
from mmfasternet.benchmark.paper import TABLE_3
from mmfasternet.benchmark.reporting.plots import by_family, trade_off
from mmfasternet.benchmark.reporting.report import Report, Table
from mmfasternet.benchmark.subjects.cycle_mlp import CycleFC
from mmfasternet.benchmark.subjects.networks import NETWORKS, Network, find_network
from mmfasternet.benchmark.subjects.timm_networks import count_attention, fold_timm_norms, is_timms
from mmfasternet.deploy import to_deploy
from mmfasternet.deploy.conversion import set_eval_mode
from mmfasternet.deploy.folding import fold_norms

KIND = 'classifiers'


def classifier_entry(network: Network,
                     device: torch.device,
                     batch_size: int = 1,
                     dtype: torch.dtype = torch.float32,
                     deploy: bool = False,
                     build: Optional[Callable[..., nn.Module]] = None) -> Entry:
    """A classifier as an entry of a suite, with random weights and folded norms, as measured in the paper.

    Args:
        network: The classifier.
        device: Device to run on.
        batch_size: Images per call. Defaults to 1.
        dtype: Data type of weights and images. Defaults to float32.
        deploy: Run FasterNet in its inference form, instead of split_cat in
            NCHW and eager mode, as all others. Defaults to False.
        build: Builds it; for entries that share their networks. Defaults to
            :func:`build_folded`.
    """

    ours = deploy and network.family == 'FasterNet'
    conditions = Conditions(((network.size, network.size), ), batch_size, dtype, 'NHWC' if ours else 'NCHW',
                            'deploy' if ours else 'eager, norms folded')

    def subject() -> Subject:
        model = (build or build_folded)(network, deploy, dtype, device)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(batch_size, 3, network.size, network.size, generator=generator)
        images = images.to(device, dtype, memory_format=torch.channels_last if ours else torch.contiguous_format)
        return Subject(lambda: model(images))

    return Entry(network.name, conditions, subject, KIND, network.name)


def build_folded(network: Network, deploy: bool = False, dtype: torch.dtype = torch.float32,
                 device: Union[str, torch.device] = 'cpu') -> nn.Module:
    """Build a classifier in eval mode with its batch norms folded into the convolutions before them."""
    model = network.build().to(device)  # first, because the inference form depends on the device
    set_eval_mode(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if network.family == 'FasterNet':
        if deploy:
            return to_deploy(model, inplace=True, dtype=dtype)
        return to_deploy(model, inplace=True, algorithm='conv', memory_format=torch.contiguous_format, dtype=dtype)
    fold_norms(model)
    if is_timms(model):
        fold_timm_norms(model, torch.rand(1, 3, network.size, network.size, device=device))
    return model.to(dtype)


def count_as_table_3(network: Network) -> Complexity:
    """Count parameters, and FLOPs as Tables 3 and 8 of the paper do.

    FLOPs are the multiply-adds of convolutions, linear layers and matrix
    products, and five for each element of a layer or group norm; batch norms
    are folded and do not count.

    Args:
        network: The classifier, at its own image size.
    """
    model = network.build()
    set_eval_mode(model)
    count_attention(model)
    images = torch.rand(1, 3, network.size, network.size)
    unseen = 0

    def visit(module: nn.Module, inputs: Tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal unseen
        if isinstance(module, CycleFC):  # a deformable convolution, which MMEngine's counter counts as 0
            unseen += output.numel() * output.shape[1]
        elif isinstance(module, MultiheadAttention):  # fused, which also counts as 0
            unseen += 2 * inputs[0].numel() * inputs[0].shape[1]

    hooks = [module.register_forward_hook(visit) for module in model.modules()]
    with torch.no_grad():
        model(images)
        for hook in hooks:
            hook.remove()
        products = count_multiply_adds(model, images, kinds=COUNTED_WITH_NORMS)
    return Complexity(network.name, sum(p.numel() for p in model.parameters()), products + unseen)


def find_networks(names: Sequence[str]) -> List[Network]:
    """Networks by name; all of them if no name is given.

    Raises:
        UserError: If a name is unknown.
    """
    return [find_network(name) for name in names or NETWORKS]


def classifier_report(networks: Sequence[Network], records: Mapping[int, Sequence[LatencyRecord]]) -> Report:
    """Table and plots of measured classifiers, with the paper's values for those in Table 3.

    Args:
        networks: The classifiers.
        records: Their records, by batch size.
    """
    batches = sorted(records)
    columns = {'network': '', 'pixels': 'd', 'parameters (M)': '.1f', 'FLOPs (G)': '.2f', 'top-1 (%)': '.1f'}
    for batch in batches:
        columns.update({f'ms, batch {batch}': '.2f', f'images/s, batch {batch}': '.1f', f'G/s, batch {batch}': '.1f'})
    columns.update({'paper: parameters': '.1f', 'paper: FLOPs': '.2f', 'paper: GPU images/s': '.0f',
                    'paper: CPU ms': '.1f'})
    rows = [_row(network, {batch: records[batch][index] for batch in batches})
            for index, network in enumerate(networks)]
    plots = {}
    for batch in batches:
        where = f'batch {batch}, {records[batch][0].conditions.processor}'
        for name, x, y, title in (
            (f'Accuracy and latency, batch {batch}', f'ms, batch {batch}', 'top-1 (%)', 'latency, ms'),
            (f'Accuracy and throughput, batch {batch}', f'images/s, batch {batch}', 'top-1 (%)', 'images per second'),
            (f'Latency and FLOPs, batch {batch}', 'FLOPs (G)', f'ms, batch {batch}', '10$^9$ FLOPs'),
            (f'FLOPS and FLOPs, batch {batch}', 'FLOPs (G)', f'G/s, batch {batch}', '10$^9$ FLOPs'),
        ):
            points = by_family([(n.family, row[x], row[y], n.name) for n, row in zip(networks, rows)])
            label = {'top-1 (%)': 'top-1 accuracy, %', f'ms, batch {batch}': 'latency, ms',
                     f'G/s, batch {batch}': '10$^9$ FLOPs per second'}[y]
            if points:
                plots[name] = trade_off(points, title, label, f'{name.partition(",")[0]}: {where}',
                                        log_y=y == f'ms, batch {batch}')
    notes = []
    for batch in batches:
        notes += [f'{records[batch][0].conditions.describe()}: {runs_of(records[batch])}.',
                  f'Batch {batch}: no other network is both as accurate and as fast as each of '
                  f"{', '.join(_front(networks, records[batch]))}.",
                  *(f'Batch {batch}: {line}' for line in failures(records[batch]))]
    notes += ['FLOPs are multiply-adds as counted in the paper, each network at its own image size. Accuracies are '
              'published values, from Table 3 if the network is in it.',
              *(f'Accuracy of {network.name}: {network.source}.' for network in networks if network.source),
              'Paper: Table 3, throughput at batch 32 on a 2080 Ti, latency on one thread of an i9-9900X.']
    return Report('Classifiers', [Table('Classifiers', columns, rows)], notes, plots)


def _front(networks: Sequence[Network], records: Sequence[LatencyRecord]) -> List[str]:
    """The Pareto front of accuracy and latency, from the fastest on."""
    best, front = 0., []
    points = [(record.median_ms, -(network.accuracy or 0.), network.name)
              for network, record in zip(networks, records) if not record.error]
    for _, accuracy, name in sorted(points):
        if -accuracy > best:
            best = -accuracy
            front.append(name)
    return front


def _row(network: Network, records: Mapping[int, LatencyRecord]) -> Dict[str, Any]:
    row: Dict[str, Any] = {'network': network.name, 'pixels': network.size, 'top-1 (%)': network.accuracy,
                           'parameters (M)': None, 'FLOPs (G)': None}
    measured = {batch: record for batch, record in records.items() if not record.error}
    if measured:  # else building it may fail
        counted = count_as_table_3(network)
        row.update({'parameters (M)': counted.parameters / 1e6, 'FLOPs (G)': counted.multiply_adds / 1e9})
    for batch in records:
        row.update({f'ms, batch {batch}': None, f'images/s, batch {batch}': None, f'G/s, batch {batch}': None})
    for batch, record in measured.items():
        row.update({f'ms, batch {batch}': record.median_ms, f'images/s, batch {batch}': record.images_per_second,
                    f'G/s, batch {batch}': counted.multiply_adds * record.images_per_second / 1e9})
    published: Optional[Any] = TABLE_3.get(network.name)
    if published:
        row.update({'paper: parameters': published.parameters, 'paper: FLOPs': published.flops,
                    'paper: GPU images/s': published.throughput, 'paper: CPU ms': published.cpu_latency})
    return row
