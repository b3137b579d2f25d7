"""Single convolutions: Table 1 of the paper, their memory access, and ShuffleNetV2's rules."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable, Dict, List, Sequence

import torch
from torch import Tensor, nn

from mmfasternet.benchmark.harness.conditions import Conditions
from mmfasternet.benchmark.harness.records import LatencyRecord, failures, runs_of
from mmfasternet.benchmark.harness.suite import Entry, Subject
from mmfasternet.benchmark.paper import TABLE_1, TABLE_1_SIZES
from mmfasternet.benchmark.reporting.plots import Point, roofline
from mmfasternet.benchmark.reporting.report import Report, Table
from mmfasternet.benchmark.subjects.partial_conv import (
    KERNEL,
    LAYERS,
    PARTIAL_RATIO,
    YARDSTICK_ADDS,
    SlicingPartialConv,
    layer_conditions,
    layer_entry,
    map_name,
    partial_convs,
    yardstick_entry,
)
from mmfasternet.errors import UserError

KIND = 'operators'
GROUPS = 16  # of a group convolution, Table 1
#: Of layers with equal work: output over input channels (rule 1), groups (2) and fragments (3); and their map's side.
RATIOS = (1, 2, 6, 12)
RULE_GROUPS = (1, 2, 4, 8)
FRAGMENTS = (1, 2, 4)
RULE_SIDE, RULE_CHANNELS, RULE_LAYERS = 56, 128, 10
_NARROW = RULE_CHANNELS // 4  # of a bottleneck
_PEAK, _BANDWIDTH = 'yardstick, convolution', 'yardstick, copy'
_COPIED = 1 << 26  # values, 256 MB of float32, more than caches hold


@dataclass(frozen=True)
class Work:
    """Operations and memory access of an operator for one image.

    Attributes:
        multiply_adds: Multiply-adds of all its layers.
        map_access: Number of feature map values that it reads and writes.
        weight_access: Number of weights that it reads, once per batch.
    """
    multiply_adds: int
    map_access: int
    weight_access: int

    def __add__(self, other: 'Work') -> 'Work':
        return Work(self.multiply_adds + other.multiply_adds, self.map_access + other.map_access,
                    self.weight_access + other.weight_access)

    def __mul__(self, count: int) -> 'Work':
        return Work(count * self.multiply_adds, count * self.map_access, count * self.weight_access)

    def bytes(self, batch_size: int, dtype: torch.dtype) -> int:
        """Memory access for a batch."""
        return (batch_size * self.map_access + self.weight_access) * dtype.itemsize

    def intensity(self, batch_size: int, dtype: torch.dtype) -> float:
        """Multiply-adds per byte of memory access."""
        return batch_size * self.multiply_adds / self.bytes(batch_size, dtype)


def work_of(operator: str, channels: int, side: int) -> Work:
    """Work of ten layers of an operator of Table 1, from equations 2 to 5 of the paper.

    Args:
        operator: ``'Conv'``, ``'GConv'``, ``'DWConv'`` or ``'PConv'``.
        channels: Channels of input and output.
        side: Height and width of the maps in pixels.
    """
    convolved = int(channels * PARTIAL_RATIO) if operator == 'PConv' else channels
    groups = dict(GConv=GROUPS, DWConv=channels).get(operator, 1)
    return _convolution_work(side, convolved, convolved, groups, KERNEL) * LAYERS


def _convolution_work(side: int, inputs: int, outputs: int, groups: int = 1, kernel: int = 1) -> Work:
    weights = kernel**2 * inputs * outputs // groups
    return Work(side**2 * weights, side**2 * (inputs + outputs), weights)


@dataclass(frozen=True)
class RuleLayer:
    """A layer of the measurements behind ShuffleNetV2's rules; its map has ``RULE_SIDE`` squared pixels.

    Attributes:
        channels: Its channels, as a label.
        inputs: Channels of its input.
        build: Builds one.
        work: Work of one layer.
        pointwise: Whether it consists only of 1x1 convolutions.
    """
    channels: str
    inputs: int
    build: Callable[[], nn.Module]
    work: Work
    pointwise: bool = True


def rule_layers() -> Dict[str, RuleLayer]:
    """The layers compared by ShuffleNetV2's four rules; in each of the first three the work is equal to within 2 %.

    Rule 1: equal numbers of input and output channels. Rule 2: groups. Rule 3:
    one layer split into several in series, or in parallel with added outputs.
    Rule 4: a ResNet bottleneck with and without activations and shortcut.
    """
    layers = {}
    for ratio in RATIOS:
        inputs = round(RULE_CHANNELS / math.sqrt(ratio))
        layers[f'rule 1, 1:{ratio}'] = _pointwise(inputs, ratio * inputs)
    for groups in RULE_GROUPS:
        channels = round(RULE_CHANNELS * math.sqrt(groups) / groups) * groups
        layers[f'rule 2, {groups} groups'] = _pointwise(channels, channels, groups)
    for fragments in FRAGMENTS:
        channels = round(RULE_CHANNELS / math.sqrt(fragments))
        each = _pointwise(channels, channels)
        if fragments == 1:
            layers['rule 3, 1 fragment'] = each
            continue
        addition = Work(0, RULE_SIDE**2 * 3 * channels, 0)  # reads two maps, writes one
        layers[f'rule 3, {fragments} in series'] = replace(
            each, build=partial(_Fragments, channels, fragments, False), work=each.work * fragments)
        layers[f'rule 3, {fragments} in parallel'] = replace(
            each, build=partial(_Fragments, channels, fragments, True),
            work=each.work * fragments + addition * (fragments - 1))
    for activations in (True, False):
        for shortcut in (True, False):
            parts = [part for part, there in (('activations', activations), ('shortcut', shortcut)) if there]
            layers[f"rule 4, {' and '.join(parts) or 'convolutions alone'}"] = RuleLayer(
                f'{RULE_CHANNELS} -> {_NARROW} -> {_NARROW} -> {RULE_CHANNELS}', RULE_CHANNELS,
                partial(_Bottleneck, activations, shortcut), _bottleneck_work(activations, shortcut), pointwise=False)
    return layers


def _pointwise(inputs: int, outputs: int, groups: int = 1) -> RuleLayer:
    build = partial(nn.Conv2d, inputs, outputs, 1, groups=groups, bias=False)
    return RuleLayer(f'{inputs} -> {outputs}', inputs, build, _convolution_work(RULE_SIDE, inputs, outputs, groups))


def _bottleneck_work(activations: bool, shortcut: bool) -> Work:
    work = (_convolution_work(RULE_SIDE, RULE_CHANNELS, _NARROW) + _convolution_work(RULE_SIDE, _NARROW, _NARROW, 1, 3)
            + _convolution_work(RULE_SIDE, _NARROW, RULE_CHANNELS))
    if activations:  # each reads and writes a map
        work += Work(0, RULE_SIDE**2 * 2 * (2 * _NARROW + RULE_CHANNELS), 0)
    return work + Work(0, RULE_SIDE**2 * 3 * RULE_CHANNELS, 0) if shortcut else work


class _Fragments(nn.Module):
    """1x1 convolutions in series, or in parallel with added outputs."""

    def __init__(self, channels: int, count: int, parallel: bool) -> None:
        super().__init__()
        self.parallel = parallel
        self.layers = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        if not self.parallel:
            for layer in self.layers:
                x = layer(x)
            return x
        first, *others = self.layers
        total = first(x)
        for layer in others:
            total = total + layer(x)
        return total


class _Bottleneck(nn.Module):
    """A ResNet bottleneck without norms."""

    def __init__(self, activations: bool, shortcut: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(RULE_CHANNELS, _NARROW, 1, bias=False),
                                     nn.Conv2d(_NARROW, _NARROW, 3, padding=1, bias=False),
                                     nn.Conv2d(_NARROW, RULE_CHANNELS, 1, bias=False)])
        self.activation = nn.ReLU(inplace=True) if activations else nn.Identity()
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.layers
        out = third(self.activation(second(self.activation(first(x)))))
        return self.activation(out + x if self.shortcut else out)


def least_access(work: Work) -> float:
    """The minimum memory access, in values, of a 1x1 convolution with this work: with equal channels (rule 1)."""
    pixels = RULE_SIDE**2
    return 2 * math.sqrt(pixels * work.multiply_adds) + work.multiply_adds / pixels


def build_operator(operator: str, channels: int, side: int) -> nn.Module:
    """Ten layers of an operator of Table 1; PConv in our form.

    Args:
        operator: ``'Conv'``, ``'GConv'``, ``'DWConv'`` or ``'PConv'``.
        channels: Channels of input and output.
        side: Height and width of the maps in pixels.
    """
    if operator == 'PConv':
        return SlicingPartialConv(partial_convs(channels, side), 'first')
    groups = dict(GConv=GROUPS, DWConv=channels).get(operator, 1)
    return nn.Sequential(*(nn.Conv2d(channels, channels, KERNEL, padding=1, groups=groups, bias=False)
                           for _ in range(LAYERS)))


def operator_entries(device: torch.device, batch_size: int = 1, dtype: torch.dtype = torch.float32,
                     memory_format: torch.memory_format = torch.contiguous_format) -> List[Entry]:
    """Table 1, the rules of ShuffleNetV2, and two reference measurements: the fastest convolution and the fastest copy.

    Args:
        device: Device to run on.
        batch_size: Images per call. Defaults to 1.
        dtype: Data type. Defaults to float32.
        memory_format: Of the maps. Defaults to NCHW.
    """
    layout = 'NHWC' if memory_format == torch.channels_last else 'NCHW'
    entries = []
    for channels, side in TABLE_1_SIZES:
        for operator in TABLE_1:
            entries.append(layer_entry(
                map_name(operator, channels, side), partial(build_operator, operator, channels, side),
                (batch_size, channels, side, side), device, dtype, layout, KIND))
    for name, layer in rule_layers().items():
        entries.append(layer_entry(name, partial(_repeated, layer.build),
                                   (batch_size, layer.inputs, RULE_SIDE, RULE_SIDE), device, dtype, layout, KIND))
    peak_batch = max(batch_size, 32) if device.type == 'cuda' else batch_size  # smaller batches do not fill a GPU
    return [*entries, yardstick_entry(_PEAK, peak_batch, device, dtype, KIND),
            Entry(_BANDWIDTH, Conditions((), peak_batch), lambda: _copy(device), KIND, _BANDWIDTH)]


def _repeated(build: Callable[[], nn.Module]) -> nn.Module:
    return _Repeated([build() for _ in range(RULE_LAYERS)])


class _Repeated(nn.Module):
    """Layers applied to the same input, because the output of some does not fit their input."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            output = layer(x)
        return output


def _copy(device: torch.device) -> Subject:
    source = torch.rand(_COPIED, device=device)
    target = torch.empty_like(source)
    return Subject(lambda: target.copy_(source))


def operator_report(records: Sequence[LatencyRecord]) -> Report:
    """Table 1 and the rules, with the memory access according to both papers, and a roofline plot.

    Args:
        records: Records of :func:`operator_entries`, or some of them and both
            yardsticks.

    Raises:
        UserError: If a yardstick is missing.
    """
    found = {record.name: record for record in records}
    missing = [name for name in (_PEAK, _BANDWIDTH) if name not in found]
    if missing:
        raise UserError(f'a table of operators needs a record of its {missing[0]}, but there is none: measure again')
    first = records[0].conditions
    peak_batch = found[_PEAK].conditions.batch_size
    peak = peak_batch * YARDSTICK_ADDS / found[_PEAK].median_ms / 1e6
    bandwidth = 2 * 4 * _COPIED / found[_BANDWIDTH].median_ms / 1e6
    points: Dict[str, List[Point]] = {}
    rows = []
    for channels, side in TABLE_1_SIZES:
        for operator, published in TABLE_1.items():
            if map_name(operator, channels, side) not in found:
                continue
            record, work = found[map_name(operator, channels, side)], work_of(operator, channels, side)
            paper = published[TABLE_1_SIZES.index((channels, side))]
            row = _work_row(record, work, peak, bandwidth)
            rows.append({'operator': operator, 'map': f'{channels}x{side}x{side}', **row,
                         'paper: FLOPs (M)': paper.flops, 'paper: GPU images/s': paper.throughput,
                         'paper: CPU ms': paper.cpu_latency, 'paper: CPU G/s': paper.flops / paper.cpu_latency})
            if not record.error:
                points.setdefault(operator, []).append((row['FLOPs / byte'], row['G/s'], f'{channels}'))
    columns = {'operator': '', 'map': '', **_WORK_COLUMNS, 'paper: FLOPs (M)': '.1f', 'paper: GPU images/s': '.0f',
               'paper: CPU ms': '.2f', 'paper: CPU G/s': '.1f'}
    rules = []
    for name, layer in rule_layers().items():
        if name not in found:
            continue
        access = layer.work.map_access + layer.work.weight_access
        rules.append({'layer': name, 'channels': layer.channels,
                      'access / least': access / least_access(layer.work) if layer.pointwise else None,
                      **_work_row(found[name], layer.work * RULE_LAYERS, peak, bandwidth)})
    notes = [f'{layer_conditions(records)}: {runs_of(records)}, each of {LAYERS} layers.',
             f'Yardsticks of the same run: a 3x3 convolution of 256 channels at batch {peak_batch}, '
             f'{peak:.1f} G multiply-adds per second; a copy of 256 MB, {bandwidth:.1f} GB/s.',
             'FLOPs are multiply-adds. MB is the memory access of equations 2 to 5 of the paper, or of ShuffleNetV2, '
             'for a batch: an activation reads and writes a map, an addition reads two and writes one. Bound is the '
             "time for FLOPs or memory access at the yardsticks' speed, whichever is longer.",
             'Paper: Table 1, a 2080 Ti at batch 32 and one thread of an i9-9900X at batch 1.', *failures(records)]
    tables = [Table('Operators', columns, rows),
              Table('Rules of ShuffleNetV2', {'layer': '', 'channels': '', **_WORK_COLUMNS, 'access / least': '.2f'},
                    rules)]
    title = f'Ten layers of each operator, batch {first.batch_size}, {first.processor}'
    return Report('Operators', tables, notes, {'Roofline': roofline(points, peak, bandwidth, title)})


_WORK_COLUMNS = {'FLOPs (M)': '.1f', 'MB': '.2f', 'FLOPs / byte': '.2f', 'ms': '.3f', 'images/s': '.0f', 'G/s': '.1f',
                 'bound (ms)': '.3f', 'bound / ms': '.2f'}


def _work_row(record: LatencyRecord, work: Work, peak: float, bandwidth: float) -> Dict[str, Any]:
    batch, dtype = record.conditions.batch_size, record.conditions.dtype
    bound = max(batch * work.multiply_adds / peak, work.bytes(batch, dtype) / bandwidth) / 1e6
    return {'FLOPs (M)': work.multiply_adds / 1e6, 'MB': work.bytes(batch, dtype) / 1e6,
            'FLOPs / byte': work.intensity(batch, dtype), 'ms': record.median_ms, 'images/s': record.images_per_second,
            'G/s': work.multiply_adds * record.images_per_second / 1e9, 'bound (ms)': bound,
            'bound / ms': bound / record.median_ms}
