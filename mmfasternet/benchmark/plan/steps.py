"""All measurements of this project as steps, the most important first."""

import functools
import gc
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from torch import nn

from mmfasternet.benchmark.harness.gpu_work import gpu_work
from mmfasternet.benchmark.harness.machine import machine_facts
from mmfasternet.benchmark.harness.records import LatencyRecord
from mmfasternet.benchmark.harness.suite import Entry, Subject, replayed, run_suite
from mmfasternet.benchmark.paper import TABLE_4
from mmfasternet.benchmark.subjects import classifiers
from mmfasternet.benchmark.subjects.classifiers import classifier_entry, find_networks
from mmfasternet.benchmark.subjects.detectors import DetectorInput, detector_entry, random_detector
from mmfasternet.benchmark.subjects.operators import operator_entries
from mmfasternet.benchmark.subjects.partial_conv import algorithm_entries, partial_conv_entries
from mmfasternet.benchmark.subjects.training_steps import training_entry
from mmfasternet.config_files import configs_folder
from mmfasternet.deploy.tf32 import set_tf32
from mmfasternet.engine.config import load_config
from mmfasternet.engine.deploying import DeployOptions
from mmfasternet.engine.device import find_device
from mmfasternet.engine.speedups import SpeedUps, native_amp_types
from mmfasternet.files import write_atomically

FACTS, GPU_WORK = 'facts.json', 'gpu-work.json'
S, T0, R50 = 'mask_rcnn_fasternet_s_1x_coco', 'mask_rcnn_fasternet_t0_1x_coco', 'mask_rcnn_resnet50_1x_coco'
#: Of Table 3, FasterNets first, then what is next to them in accuracy, and one of each other family.
NETWORKS = ('FasterNet-T0', 'FasterNet-T1', 'FasterNet-T2', 'FasterNet-S', 'FasterNet-M', 'FasterNet-L', 'ResNet50',
            'MobileNetV2', 'ShuffleNetV2 1.5x', 'GhostNet 1.3x', 'EdgeNeXt-S', 'MobileViT-XS', 'PoolFormer-S12',
            'PVT-Small', 'ConvNeXt-T', 'Swin-T', 'ConvNeXt-S', 'Swin-S', 'ConvNeXt-B', 'Swin-B', 'MobileNetV3-L',
            'EfficientNet-B0', 'EfficientNet-B3')


@dataclass
class Bench:
    """Device, folder and time limit of the measurements.

    Attributes:
        device: Name of the device; None for the first GPU, else the CPU.
        out: Folder for the results: a folder for each suite.
        small: Tiny images, few models, one round: a trial of every step.
        deadline: Time by which the step must end, as from
            :func:`time.monotonic`.
        skipped: Names of suites that were skipped for lack of time.
    """
    device: Optional[str]
    out: Path
    small: bool = False
    deadline: float = float('inf')
    skipped: List[str] = field(default_factory=list)

    @functools.cached_property
    def target(self) -> torch.device:
        return find_device(self.device)

    @property
    def on_gpu(self) -> bool:
        return self.target.type == 'cuda'

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width of a detector's images."""
        return (96, 128) if self.small else (800, 1280)

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def suite(self, name: str, entries: Sequence[Entry], rounds: int, least: float = 15.) -> List[LatencyRecord]:
        """Measure a suite, if at least ``least`` seconds are left."""
        if self.left() < least:
            print(f'{name}: no time left')
            self.skipped.append(name)
            return []
        start = time.monotonic()
        entries = [replace(entry, build=functools.partial(_timed_build, entry)) for entry in entries]
        records = run_suite(entries, self.target, 1 if self.small else rounds, out=self.out / name)
        for record in records:
            parts = ' '.join(f'{part}={ms:.2f}' for part, ms in record.part_medians_ms.items())
            print(f'{record.name}: {record.error}' if record.error else
                  f'{record.name:56} {record.median_ms:9.3f} ms  p10 {record.p10_ms:.3f}  p90 {record.p90_ms:.3f}  '
                  f'{record.memory_mb or 0:.0f} MB  {parts}')
        print(f'{name}: {len(records)} records in {time.monotonic() - start:.0f} s', flush=True)
        gc.collect()  # graphs and the modules they replay form reference cycles
        torch.cuda.empty_cache()
        return records


def _timed_build(entry: Entry) -> Subject:
    start = time.monotonic()
    subject = entry.build()
    print(f'built {entry.name} in {time.monotonic() - start:.1f} s', flush=True)
    return subject


@functools.cache
def detector_configs(small: bool = False) -> Dict[str, Config]:
    """The configs of Table 4 by name; a few slim ones for a trial."""
    folder = configs_folder()
    paths = {name: folder / row.config for name, row in TABLE_4.items()}
    if small:
        paths = {R50: paths[R50], S: folder / f'{T0}.py'}
    configs = {name: load_config(str(path)) for name, path in paths.items()}
    for cfg in configs.values() if small else ():
        cfg.model.test_cfg.rpn.update(nms_pre=50, max_per_img=50)
        cfg.model.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=50)
        cfg.model.train_cfg.rcnn.sampler.num = 32
    return configs


def facts(bench: Bench) -> None:
    """The machine and its ceilings."""
    found = machine_facts(bench.target, bench.small)
    write_atomically(bench.out / FACTS, (json.dumps(found, indent=1) + '\n').encode())
    for name, value in found.items():
        print(f'{name}: {value}')


def table_4(bench: Bench) -> None:
    """Twelve detectors in float32 and on a GPU in float16, eager and with CUDA graphs, end-to-end and in parts."""
    _table_4(bench, [('float32', 'off'), ('float16', 'convolutions')] if bench.on_gpu else [('float32', 'off')])


def table_4_in_other_types(bench: Bench) -> None:
    """The same on a GPU in float32 with TF32, and in bfloat16 if supported; only with CUDA graphs.

    In eager mode, a detector is limited by kernel launches in every type.
    """
    if bench.on_gpu:
        _table_4(bench, [('float32', 'on'), *((dtype, 'convolutions') for dtype in native_amp_types()[1:])], False)


def _table_4(bench: Bench, settings: Sequence[Tuple[str, str]], eager: bool = True) -> None:
    configs = detector_configs(bench.small)
    build = functools.cache(lambda name: random_detector(configs[name], bench.target))
    for dtype, tf32 in settings:
        set_tf32(tf32)
        forms = [DeployOptions(dtype != 'float32', dtype)] if eager else []
        if bench.on_gpu:
            forms.append(DeployOptions(True, dtype, graphs=True))
        entries = [_detector(bench, name, form, functools.partial(build, name)) for form in forms for name in configs]
        bench.suite(f"table-4/{'TF32' if tf32 == 'on' else dtype}", entries, 6, 25.)


def _detector(bench: Bench, name: str, form: DeployOptions, build: Callable[[], nn.Module]) -> Entry:
    dtype = '' if form.dtype == 'float32' else f', {form.dtype}'
    return detector_entry(detector_configs(bench.small)[name], f'{name}, {form.form}{dtype}', bench.target,
                          DetectorInput(bench.size), None, form, build, name)


def forms_of_two(bench: Bench) -> List[DeployOptions]:
    """Forms from the plain one to the fastest."""
    if not bench.on_gpu:
        return [DeployOptions(), DeployOptions(True), DeployOptions(True, 'bfloat16')]
    half = [DeployOptions(True, dtype, graphs=True) for dtype in native_amp_types()]
    return [DeployOptions(), DeployOptions(True), DeployOptions(True, 'float16'), *half,
            DeployOptions(True, 'float16', True, True)]


def forms(bench: Bench) -> None:
    """FasterNet-S and ResNet-50 in all forms, in one interleaved run, and what the GPU does in each."""
    configs, kept = detector_configs(bench.small), {}
    build = functools.cache(lambda name: random_detector(configs[name], bench.target))

    def kept_build(entry: Entry) -> Subject:
        kept[entry.name] = entry.build()
        return kept[entry.name]

    set_tf32('convolutions')
    entries = [_detector(bench, name, form, functools.partial(build, name))
               for name in (R50, S) for form in forms_of_two(bench)]
    records = bench.suite('forms', [replace(e, build=functools.partial(kept_build, e)) for e in entries], 15, 40.)
    for entry, record in zip(entries, records) if bench.on_gpu else ():
        subject = None if record.error else kept.pop(entry.name, None)
        if not record.error:
            _look_at(bench, 'forms', entry, subject)


def _look_at(bench: Bench, suite: str, entry: Entry, subject: Optional[Subject] = None, calls: int = 5) -> None:
    """Record what the GPU does in a call of an entry."""
    path = bench.out / suite / GPU_WORK
    work = json.loads(path.read_text()) if path.exists() else {}
    if entry.name in work:
        return
    each = gpu_work((subject or entry.build()).function, calls=calls).to_dict()
    work[entry.name] = each
    write_atomically(path, (json.dumps(work, indent=1) + '\n').encode())
    print(f"{entry.name}: GPU busy {each['busy_ms']:.2f} ms, {each['kernels']:.0f} kernels; longest:")
    for kernel, ms, count in each['longest'][:8]:
        print(f'    {ms:7.3f} ms {count:5.0f}  {kernel[:110]}')


def training(bench: Bench) -> None:
    """Steps of the recipe, FasterNet-S and ResNet-50; on a GPU at a batch of 2 and at the recipe's 16."""
    if not bench.on_gpu:
        _training(bench, ['plain', 'channels-last'], 1, 'batch-1')
        return
    halves = native_amp_types()
    last = [f'{dtype}+channels-last' for dtype in halves]
    _training(bench, ['plain', *halves, *last], 2, 'batch-2')
    entries = _training(bench, ['plain', *last], 16, 'batch-16')
    for entry in entries[-2:] if bench.left() > 15 else ():  # S and ResNet-50 in the last form that was measured
        _look_at(bench, 'training/batch-16', entry, calls=2)


def _training(bench: Bench, names: Sequence[str], batch: int, suite: str, models: Sequence[str] = (S, R50),
              least: float = 25.) -> List[Entry]:
    """Measure a suite of training; returns the entries that could be measured."""
    size = (96, 160) if bench.small else (800, 1333)
    set_tf32('convolutions')
    entries = [training_entry(detector_configs(bench.small)[model], model, bench.target, SpeedUps.parse(name), size,
                              batch) for name in names for model in models]
    records = bench.suite(f'training/{suite}', entries, 5, least)
    return [entry for entry, record in zip(entries, records) if not record.error]


def operator_tables(bench: Bench) -> None:
    """Tables 1 and 9: eager, and on a GPU with CUDA graphs, which measure the time of the GPU."""
    batch, device = 32 if bench.on_gpu and not bench.small else 1, bench.target
    set_tf32('convolutions')
    nchw, nhwc = torch.contiguous_format, torch.channels_last
    one = functools.partial(_few, bench, lambda *args: operator_entries(device, batch, *args))
    nine = functools.partial(_few, bench, lambda *args: partial_conv_entries(device, batch, *args))
    bench.suite('table-1/eager', one(torch.float32, nchw), 15)
    if bench.on_gpu:
        graphs = functools.partial(map, replayed)
        bench.suite('table-1/graphs', list(graphs(one(torch.float32, nchw))), 15)
        bench.suite('table-9/graphs', list(graphs(nine(torch.float32))), 8)
        bench.suite('table-1/graphs-NHWC', list(graphs(one(torch.float32, nhwc))), 15)
        bench.suite('table-9/graphs-float16', list(graphs(nine(torch.float16))), 8)
        bench.suite('table-1/graphs-float16-NHWC', list(graphs(one(torch.float16, nhwc))), 15)
    bench.suite('table-9/eager', nine(torch.float32), 8)


def _few(bench: Bench, make: Callable[..., List[Entry]], *args: Any) -> List[Entry]:
    """The entries; only quick ones for a trial."""
    return [e for e in make(*args)
            if not bench.small or any(part in e.name for part in ('768', 'T0', 'yardstick', 'rule 3'))]


def table_3(bench: Bench) -> None:
    """Classifiers at batch 1; on a GPU with CUDA graphs, and also at batch 32."""
    _table_3(bench, [(32, True), (1, True)] if bench.on_gpu else [(1, False)])


def table_3_eager(bench: Bench) -> None:
    """The same on a GPU without graphs, as most programs run them."""
    if bench.on_gpu:
        _table_3(bench, [(32, False), (1, False)])


def _table_3(bench: Bench, settings: Sequence[Tuple[int, bool]]) -> None:
    networks = find_networks(['ResNet50', 'FasterNet-T0', 'MobileNetV2'] if bench.small else NETWORKS)
    set_tf32('convolutions')
    build = functools.cache(classifiers.build_folded)
    for batch, graphs in settings:
        entries = [classifier_entry(network, bench.target, batch, build=build) for network in networks]
        bench.suite(f"table-3/batch-{batch}{'-graphs' if graphs else ''}",
                    [replayed(entry) for entry in entries] if graphs else entries, 10)


def backbone_forms(bench: Bench) -> None:
    """Algorithms of FasterNet's block in FasterNet-S, at the image sizes of detectors and classifiers."""
    arch = 't0' if bench.small else 's'
    for tf32 in ('on', 'convolutions') if bench.on_gpu else ('convolutions', ):
        set_tf32(tf32)
        dtypes = [torch.float32, torch.float16 if bench.on_gpu else torch.bfloat16]
        for size, batch in (((64, 64), 1), ) if bench.small else ((bench.size, 1), ((224, 224), 32)):
            entries = algorithm_entries(arch, bench.target, size, batch, dtypes if tf32 == 'on' else dtypes[:1])
            bench.suite(f"backbone-forms/{size[0]}x{size[1]}{'-TF32' if tf32 == 'on' else ''}",
                        [replayed(entry) for entry in entries] if bench.on_gpu else entries, 10)


def training_compiled(bench: Bench) -> None:
    """The fastest form of training and the same form compiled, model by model, as a compilation takes minutes."""
    half = native_amp_types()[-1] + '+' if bench.on_gpu else ''
    names = [f'{half}channels-last', f'{half}channels-last+compile']
    for model, name in ((S, 'fasternet-s'), (R50, 'resnet-50')):
        _training(bench, names, 16 if bench.on_gpu else 1, f'compiled-{name}', [model], 150.)


@dataclass(frozen=True)
class Step:
    """A step of the plan.

    Attributes:
        run: The function to run.
        most: Time limit on a GPU in seconds.
        least: Minimum remaining seconds to start it.
    """
    run: Callable[[Bench], None]
    most: float
    least: float

    @property
    def name(self) -> str:
        return self.run.__name__.replace('_', '-')


STEPS = (Step(facts, 60, 10), Step(forms, 180, 60), Step(table_4, 180, 40), Step(training, 180, 30),
         Step(operator_tables, 150, 15), Step(table_3, 120, 15), Step(table_4_in_other_types, 180, 30),
         Step(table_3_eager, 120, 15), Step(backbone_forms, 60, 10), Step(training_compiled, 420, 160))
