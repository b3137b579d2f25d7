"""Algorithms of partial convolution, in layers and in backbones (Table 9 of the paper), and forms of a backbone."""

import functools
import math
from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfasternet.benchmark.complexity import count_multiply_adds
from mmfasternet.benchmark.harness.conditions import Conditions
from mmfasternet.benchmark.harness.records import LatencyRecord, failures, runs_of
from mmfasternet.benchmark.harness.suite import Entry, Subject
from mmfasternet.benchmark.paper import TABLE_1_SIZES, TABLE_9
from mmfasternet.benchmark.reporting.report import Report, Table
from mmfasternet.benchmark.subjects.exported_forms import Exports, exported_forms, float_types, run_type
from mmfasternet.benchmark.subjects.published_blocks import CloneSlicingBlock, InPlaceSlicingBlock, with_blocks
from mmfasternet.compat import tree_leaves
from mmfasternet.deploy import DeployedBlock, to_deploy
from mmfasternet.deploy.conversion import fastest_algorithm
from mmfasternet.deploy.dense import image_channels
from mmfasternet.deploy.deployed_block import ALGORITHMS
from mmfasternet.deploy.export.runtimes import SUFFIXES, load_runtime
from mmfasternet.models import FasterNet, PartialConv

KIND = 'partial convolutions'
#: Of what form_report shows.
FORMS = 'forms'
LAYERS = 10  # of an operator, Tables 1 and 9
KERNEL = 3
PARTIAL_RATIO = 1 / 4
YARDSTICK = 'yardstick: 3x3 convolution'
#: Its multiply-adds for one image.
YARDSTICK_ADDS = 256 * 256 * 9 * 56 * 56
LAYOUTS = {'NCHW': torch.contiguous_format, 'NHWC': torch.channels_last}
_SPLIT_CAT_NHWC = 'split_cat channels-last'
_FORMS = ('split_cat', _SPLIT_CAT_NHWC, 'slicing', 'clone', 'ours')
_ARCHS = ('t0', 't1', 't2', 's', 'm', 'l')


class SlicingPartialConv(nn.Module):
    """Layers of partial convolution that write into one tensor.

    Args:
        layers: Layers of :class:`~mmfasternet.models.PartialConv`.
        copies: How the input is protected: ``'none'`` is listing 1 of the
            paper, which overwrites it; ``'all'`` copies it in each layer, the
            published correction; ``'first'`` copies it only in the first
            layer, our form.
    """

    def __init__(self, layers: Sequence[PartialConv], copies: str) -> None:
        super().__init__()
        self.convs = nn.ModuleList(layer.conv for layer in layers)
        self.copies = copies

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        for index, conv in enumerate(self.convs):
            if self.copies == 'all' or (self.copies == 'first' and index == 0):
                x = x.clone()
            x[:, :conv.in_channels] = conv(x[:, :conv.in_channels])
        return x


def partial_convs(channels: int, side: int) -> List[PartialConv]:
    """Ten layers that can be applied thousands of times in place to a map of ``side`` squared pixels."""
    layers = [PartialConv(channels, partial_ratio=PARTIAL_RATIO) for _ in range(LAYERS)]
    for layer in layers:
        layer.conv.weight.data = _lasting_weight(layer.conv_channels, side).clone()
    return layers


@functools.cache
def _lasting_weight(channels: int, side: int) -> Tensor:
    """A random weight that keeps the magnitude of maps over thousands of in-place calls.

    No weight is zero, because a GPU's clock is higher on zeros. The
    convolution is a symmetric matrix, divided by its largest eigenvalue.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(channels, channels, KERNEL, KERNEL, generator=generator)
    weight += weight.transpose(0, 1).flip(2, 3)
    x = torch.randn(1, channels, side, side, generator=generator)
    for _ in range(300):
        x = F.conv2d(x / x.norm(), weight, padding=KERNEL // 2)
    return weight / x.norm()


def map_name(operator: str, channels: int, side: int) -> str:
    """Name of an operator on a map."""
    return f'{operator} {channels}x{side}x{side}'


def layer_entry(name: str,
                build: Callable[[], nn.Module],
                shape: Tuple[int, int, int, int],
                device: torch.device,
                dtype: torch.dtype,
                layout: str,
                kind: str,
                form: str = 'eager',
                model: Optional[str] = None,
                multiply_adds: Optional[int] = None) -> Entry:
    """Layers on a random map as an entry of a suite.

    Args:
        name: Its name.
        build: Builds the layers.
        shape: Shape of the map, ``(N, C, H, W)``.
        device: Device to run on.
        dtype: Type of map and weights.
        layout: Memory format, ``'NCHW'`` or ``'NHWC'``.
        kind: What is measured; this and the following are for the record.
        form: Form of the layers. Defaults to ``'eager'``.
        model: Name of the layers. Defaults to None: ``name``.
        multiply_adds: Their multiply-adds. Defaults to None: not counted.
    """
    def subject() -> Subject:
        module = build().eval().to(device, dtype).to(memory_format=LAYOUTS[layout])
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(*shape, generator=generator).to(device, dtype).contiguous(memory_format=LAYOUTS[layout])
        return Subject(lambda: module(x), operations=2 * multiply_adds if multiply_adds else None)

    conditions = Conditions((shape[2:], ), shape[0], dtype, layout, form)
    return Entry(name, conditions, subject, kind, model or name)


def yardstick_entry(name: str, batch_size: int, device: torch.device, dtype: torch.dtype, kind: str) -> Entry:
    """A single 3x3 convolution of 256 to 256 channels at 56 x 56 pixels, channels-last: about the fastest there is."""
    return layer_entry(name, lambda: nn.Conv2d(256, 256, 3, padding=1, bias=False), (batch_size, 256, 56, 56), device,
                       dtype, 'NHWC', kind, model=YARDSTICK, multiply_adds=batch_size * YARDSTICK_ADDS)


class Backbone:
    """Makes entries for the forms of a FasterNet, all on the same random images.

    Args:
        name: Its name.
        build: Builds it on the measured device; the model is not changed.
        device: The measured device.
        size: Height and width of the images in pixels.
        batch_size: Images per call.
        kind: What is measured, for the record.
        weights: ``'random'``, or its checkpoint.
        compare: Whether to count operations, and to compare outputs with the
            original's in float32. Defaults to True.
    """

    def __init__(self, name: str, build: Callable[[], nn.Module], device: torch.device, size: Tuple[int, int],
                 batch_size: int, kind: str, weights: str = 'random', compare: bool = True) -> None:
        self.name, self.build, self.device, self.kind, self.weights = name, build, device, kind, weights
        self.size, self.batch_size, self.compare = (size[0], size[1]), batch_size, compare

    def entry(self, form: str, algorithm: Optional[str], dtype: torch.dtype = torch.float32, layout: str = 'NCHW',
              block: Optional[Type[DeployedBlock]] = None, compile: bool = False, name: Optional[str] = None) -> Entry:
        """The backbone with folded norms and an algorithm for its blocks, as an entry of a suite.

        Args:
            form: Name of the form.
            algorithm: Algorithm of its blocks; None leaves the backbone
                unchanged.
            dtype: Type to compute in. Defaults to float32.
            layout: Memory format. Defaults to ``'NCHW'``.
            block: Replacement of the blocks, applied first. Defaults to None.
            compile: Whether it is compiled. Defaults to False.
            name: Name of the entry. Defaults to None: the form, with memory
                format and type.
        """
        def build() -> nn.Module:
            backbone = with_blocks(self.build(), block) if block else self.build()
            if algorithm is None:
                return backbone
            return to_deploy(backbone, algorithm=algorithm, dtype=dtype, memory_format=LAYOUTS[layout],
                             compile=compile, sizes=[self.size] if compile else ())

        return self._entry(form, algorithm, dtype, layout, compile, name, dtype, build)

    def exported(self, file_format: str, runtime: str, dtype: torch.dtype, layout: str) -> Entry:
        """The backbone as an exported file, as an entry of a suite; see :func:`exported_forms` for the arguments."""
        def build() -> Any:
            return load_runtime(self._exports.folder(file_format, dtype) / f'backbone{SUFFIXES[file_format]}',
                                run_type(dtype))

        return self._entry(runtime, None, dtype, layout, False, None, torch.float32, build)

    @functools.cached_property
    def _exports(self) -> Exports:
        return Exports(self.build(), [self._images()[:1]])

    def _entry(self, form: str, algorithm: Optional[str], dtype: torch.dtype, layout: str, compile: bool,
               name: Optional[str], given: torch.dtype, build: Callable[[], Any]) -> Entry:
        conditions = Conditions((self.size, ), self.batch_size, dtype, layout, form, algorithm, compile,
                                weights=self.weights)

        def subject() -> Subject:
            run, x = build(), self._images().to(given, memory_format=LAYOUTS[layout])
            if not self.compare:
                return Subject(lambda: run(x))
            with torch.no_grad():
                difference = _difference(run(x), self._expected)
            return Subject(lambda: run(x), operations=self._operations, difference=difference)

        parts = (conditions.full_form, layout, conditions.dtype_name)
        return Entry(name or ', '.join(parts), conditions, subject, self.kind, self.name)

    def _images(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.batch_size, self._channels, *self.size, generator=generator).to(self.device)

    @functools.cached_property
    def _channels(self) -> int:
        return image_channels(self.build())

    @functools.cached_property
    def _expected(self) -> List[Tensor]:
        return [x.clone() for x in self.build()(self._images())]

    @functools.cached_property
    def _operations(self) -> int:
        return 2 * count_multiply_adds(self.build(), self._images())


def _difference(actual: Any, expected: Sequence[Tensor]) -> float:
    pairs = zip(tree_leaves(actual), expected)
    return max(((x.float() - y).abs().max() / y.abs().max()).item() for x, y in pairs)


def backbone_form_entries(backbone: Backbone, dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
                          compile: bool = True) -> List[Entry]:
    """All forms of a FasterNet, as entries of a suite.

    The first one, which the others are compared with, is split_cat with folded
    norms in eager mode, NCHW and float32. The last ones are reference
    measurements of the processor.

    Args:
        backbone: The backbone.
        dtypes: Types in addition to float32, and float32 itself; int8 is only
            for exported files. Defaults to float32 and bfloat16.
        compile: Whether to include compiled forms. Defaults to True.
    """
    entries = [backbone.entry('split_cat, folded norms', 'conv'), backbone.entry('split_cat, as trained', None),
               backbone.entry('clone and slice', 'conv', block=CloneSlicingBlock),
               backbone.entry('slice in place (wrong)', 'conv', block=InPlaceSlicingBlock)]
    for dtype in float_types(dtypes):
        for layout in LAYOUTS:
            if (dtype, layout) != (torch.float32, 'NCHW'):
                entries.append(backbone.entry('conv', 'conv', dtype, layout))
            entries.append(backbone.entry('matmul', 'matmul', dtype, layout))
        entries.append(backbone.entry('linear', 'linear', dtype, 'NHWC'))
    entries += [backbone.entry(algorithm, algorithm, dtype, 'NHWC', compile=True)
                for dtype in float_types(dtypes) if compile for algorithm in ('conv', 'linear')]
    if backbone.device.type == 'cpu':
        entries += [backbone.exported(*each) for each in exported_forms(dtypes)]
    return [*entries, *(yardstick_entry(f"{YARDSTICK}, {str(dtype).removeprefix('torch.')}", 1,
                                        backbone.device, dtype, backbone.kind) for dtype in float_types(dtypes))]


def algorithm_entries(arch: str, device: torch.device, size: Tuple[int, int], batch_size: int,
                      dtypes: Sequence[torch.dtype]) -> List[Entry]:
    """The algorithms of FasterNet's block in a backbone with random weights, as entries of a suite.

    Args:
        arch: The size of FasterNet, such as ``'s'``.
        device: Where it runs.
        size: Height and width of the images in pixels.
        batch_size: Images per call.
        dtypes: Types to compute in.
    """
    build = functools.cache(functools.partial(_random_fasternet, arch, device))
    backbone = Backbone(f'FasterNet-{arch.upper()}', build, device, size, batch_size, FORMS)
    chosen = [('conv', 'NCHW'), *((algorithm, 'NHWC') for algorithm in ALGORITHMS)]
    return [backbone.entry(algorithm, algorithm, dtype, layout) for dtype in dtypes for algorithm, layout in chosen]


def partial_conv_entries(device: torch.device, batch_size: int = 1, dtype: torch.dtype = torch.float32) -> List[Entry]:
    """Table 9: ten layers of PConv and backbones, by split_cat, the published slicing, its correction, and ours.

    In a backbone, ours is the fastest inference form on the device,
    channels-last; split_cat is measured in both memory formats.

    Args:
        device: Device to run on.
        batch_size: Images per call. Defaults to 1.
        dtype: Data type. Defaults to float32.
    """
    entries = []
    for channels, side in TABLE_1_SIZES:
        model = map_name('PConv', channels, side)
        for form, copies in (('split_cat', None), ('slicing', 'none'), ('clone', 'all'), ('ours', 'first')):
            entries.append(layer_entry(
                f'{model}, {form}', functools.partial(_layers, channels, side, copies),
                (batch_size, channels, side, side), device, dtype, 'NCHW', KIND, form, model))
    options: Dict[str, Dict[str, Any]] = {
        'slicing': dict(block=InPlaceSlicingBlock), 'clone': dict(block=CloneSlicingBlock),
        _SPLIT_CAT_NHWC: dict(layout='NHWC'), 'ours': dict(layout='NHWC')}
    for arch in _ARCHS:
        model = f'FasterNet-{arch.upper()}'
        build = functools.partial(_random_fasternet, arch, device, out_indices=(3, ), out_norm=False)
        backbone = Backbone(model, build, device, (224, 224), batch_size, KIND, compare=False)
        for form in _FORMS:
            algorithm = fastest_algorithm(device, dtype) if form == 'ours' else 'conv'
            entries.append(backbone.entry(form, algorithm, dtype, name=f'{model}, {form}', **options.get(form, {})))
    return entries


def _layers(channels: int, side: int, copies: Optional[str]) -> nn.Module:
    layers = partial_convs(channels, side)
    return nn.Sequential(*layers) if copies is None else SlicingPartialConv(layers, copies)


def _random_fasternet(arch: str, device: torch.device, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return FasterNet(arch, **options).eval().to(device)


def partial_conv_report(records: Sequence[LatencyRecord]) -> Report:
    """Table 9: speed of each form relative to split_cat.

    Args:
        records: Records of :func:`partial_conv_entries`.
    """
    found = {(record.model, record.conditions.form): record for record in records}
    others = _FORMS[1:]
    rows = []
    for model, paper in TABLE_9.items():
        times = {form: found[model, form].median_ms if (model, form) in found else math.nan for form in _FORMS}
        rows.append({'network': model, **{f'{form} (ms)': time for form, time in times.items()},
                     **{f'{form} / split_cat': times['split_cat'] / times[form] for form in others},
                     'paper: slicing on GPU': paper[1] / paper[0], 'paper: slicing on CPU': paper[2] / paper[3]})
    columns = {'network': '', **{f'{form} (ms)': '.2f' for form in _FORMS},
               **{f'{form} / split_cat': '.2f' for form in others}, 'paper: slicing on GPU': '.2f',
               'paper: slicing on CPU': '.2f'}
    algorithms = {record.conditions.algorithm for record in records if record.conditions.form == 'ours'} - {None}
    notes = [f'{layer_conditions(records)}: {runs_of(records)}; norms folded; in backbones, ours is the algorithm '
             f"'{', '.join(map(str, algorithms))}', channels-last.",
             'A ratio is the speed over that of split_cat. The published slicing overwrites its input, which gives '
             'wrong outputs in FasterNet, where a shortcut needs it; clone corrects this with a copy in each layer. '
             "The paper's ratios are from Table 9.", *failures(records)]
    return Report('Forms of partial convolution', [Table('Forms of partial convolution', columns, rows)], notes)


def layer_conditions(records: Sequence[LatencyRecord]) -> str:
    """Description of the conditions of layers, with the sizes of all maps."""
    sizes = dict.fromkeys(size for record in records for size in record.conditions.sizes)
    return replace(records[0].conditions, sizes=tuple(sizes), form='eager').describe()
