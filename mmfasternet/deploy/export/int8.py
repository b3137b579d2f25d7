"""Exports models to int8 files, which are compared with their float32 files before they are published."""

import functools
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Protocol, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmfasternet.deploy.conversion import to_deploy
from mmfasternet.deploy.export.exported_networks import Run, roi_heads
from mmfasternet.deploy.export.exporting import bytes_of, float32_copy, new_export, write_parts
from mmfasternet.deploy.export.manifest import Manifest, Part
from mmfasternet.deploy.export.quantization import (
    QUANTIZERS,
    Drop,
    InputData,
    Layers,
    quantize_onnx,
    quantize_openvino,
)
from mmfasternet.deploy.export.runtimes import SUFFIXES, load_runtime
from mmfasternet.errors import ArgumentError, UserError

#: Accuracy by metric, between 0 and 1, of the model with files instead of its networks.
Evaluate = Callable[[Sequence[Part], Sequence[Run]], Dict[str, float]]

_ENTRIES = ('backbone', 'classifier', 'dense')  # the parts that take images
_ROIS = 1024  # to calibrate a head on, from all images together
_COMPARED = 4  # inputs to compare a file on


class Batches(Protocol):
    """The inputs that a model is calibrated on; iterated several times."""

    def __len__(self) -> int:
        ...

    def __iter__(self) -> Iterator[Any]:
        ...


@dataclass(frozen=True)
class Int8PartReport:
    """An int8 file, and how much its outputs differ from those of the float32 file.

    Attributes:
        name: Name of the part.
        file: Its file.
        bytes: Size of the file, with its weights' file if there is one.
        float32_bytes: Size of the float32 file.
        layers: Its layers with weights, by type.
        relative: Norm of the difference over norm of the output, for the
            output with the largest ratio.
    """
    name: str
    file: Path
    bytes: int
    float32_bytes: int
    layers: Layers
    relative: float


@dataclass(frozen=True)
class Int8Report:
    """An int8 export.

    Attributes:
        parts: Its files.
        accuracy: Metrics by name, each in float32 and in int8; empty if not
            evaluated.
    """
    parts: List[Int8PartReport]
    accuracy: Dict[str, List[float]]


def export_int8(model: nn.Module,
                out_dir: str,
                calibration: Batches,
                file_format: str = 'openvino',
                parts: bool = False,
                backbone: bool = False,
                evaluate: Optional[Evaluate] = None,
                max_drop: float = 0.01,
                search: bool = False,
                images: Sequence[Tensor] = (),
                tolerance: float = 1e-4,
                model_cfg: Optional[Dict[str, Any]] = None) -> Int8Report:
    """Write a model as int8 OpenVINO or ONNX files, by post-training quantisation.

    The parts are those of :func:`~mmfasternet.deploy.export.exporting.export_model`,
    which writes them in float32 first, and checks them. A fixed rule, found by measuring accuracy, decides what becomes
    int8: all layers with weights except the first one, which reads the image; additions, activations and norms stay in
    float32. A ReLU, and operators that only move values, have the type of the layer before them.

    ``out_dir`` is made only if all checks pass.

    Args:
        model: A classifier or detector, or a bare backbone; it is not changed.
        out_dir: New folder for the files and ``export.json``.
        calibration: Batches of one image each, which determine the scales of activations: inputs of the model's
            ``test_step``, or tensors ``(1, C, H, W)`` for a bare backbone. Iterated several times.
        file_format: ``'openvino'`` or ``'onnx'``. Defaults to ``'openvino'``.
        parts: Write the RoI heads as well. Defaults to False.
        backbone: Write only the model's backbone. Defaults to False.
        evaluate: Returns the model's accuracy by metric, from 0 to 1, with files instead of its networks. Defaults to
            None: the accuracy is not checked.
        max_drop: Largest accepted drop of any metric. Defaults to 0.01.
        search: If the drop is larger, let NNCF search for layers to revert to float32. For OpenVINO only. Defaults to
            False.
        images: Normalised real images ``(1, C, H, W)`` to compare on.
            Defaults to none, the first ones of ``calibration``.
        tolerance: Largest accepted difference of the float32 files from PyTorch, relative to the largest value of an
            output. Defaults to 1e-4.
        model_cfg: The model's config, for the manifest. Defaults to None.

    Raises:
        ArgumentError: If the model can't be exported.
        UserError: If ``out_dir`` exists, a package is missing, an output is
            NaN or infinite, no object is found to calibrate a head on, or the accuracy drops by more than ``max_drop``.
    """
    if not calibration:
        raise UserError('int8 needs images to calibrate on, and there are none')
    if search and (file_format != 'openvino' or evaluate is None):
        raise ArgumentError('the search for float32 layers is done by NNCF, which needs --format openvino and an '
                            'evaluation')
    with new_export(out_dir, file_format, QUANTIZERS.get(file_format, ())) as folder:
        float_folder = folder.parent / 'float32'
        float_folder.mkdir()
        model = float32_copy(model)
        _, entries = write_parts(model.backbone if backbone else model, float_folder, Path(out_dir), file_format,
                                 parts, images=images, tolerance=tolerance)
        files = _Files(entries, float_folder, folder, evaluate)
        inputs = _inputs_of(model, calibration, entries)
        layers = {part.name: files.quantize(part, inputs[part.name]) for part in entries}
        drop = 0. if evaluate is None else files.drop()
        if search and not drop <= max_drop:
            layers = files.search(inputs, max_drop)
            drop = files.drop()
        _check_drop(files, layers, drop, max_drop, search)
        reports = [files.report(part, inputs[part.name], images, layers[part.name], Path(out_dir)) for part in entries]
        in_float32 = {name: each.float32 for name, each in layers.items()}
        Manifest.of(file_format, entries, model_cfg, dtype='int8', float32_layers=in_float32,
                    accuracy=files.accuracy).write(folder)
    return Int8Report(reports, files.accuracy)


class _Files:
    """The files of an export in float32 and in int8.

    Args:
        entries: Their entries in the manifest.
        floats: Folder of the float32 files.
        int8: Folder of the int8 files.
        evaluate: Returns the accuracy; None for no evaluation.
    """

    def __init__(self, entries: Sequence[Part], floats: Path, int8: Path, evaluate: Optional[Evaluate]) -> None:
        self.entries, self.floats, self.int8, self.evaluate = entries, floats, int8, evaluate
        self.accuracy: Dict[str, List[float]] = {}
        if evaluate is not None:  # before all the work
            metrics = evaluate(entries, [load_runtime(floats / part.file) for part in entries])
            self.accuracy = {name: [value] for name, value in metrics.items()}
            if not metrics:
                raise UserError('nothing is detected in the validation data in float32, so there is no accuracy to '
                                'compare: use --no-accuracy')

    def quantize(self, part: Part, data: InputData, drop: Optional[Drop] = None, max_drop: float = 0.) -> Layers:
        """Write the int8 file of a part; with a drop, search for layers that stay in float32."""
        file, out = self.floats / part.file, self.int8 / part.file
        is_entry = part.name in _ENTRIES
        if file.suffix == SUFFIXES['onnx']:
            return quantize_onnx(file, out, data, is_entry)
        return quantize_openvino(file, out, data, is_entry, drop, max_drop)

    def drop(self) -> float:
        """The largest drop of a metric, with all files in int8."""
        values = self._evaluate([self.int8] * len(self.entries))
        self.accuracy = {name: [before, values.get(name, 0.)] for name, (before, *_) in self.accuracy.items()}
        return self._drop_to(values)

    def search(self, inputs: Dict[str, InputData], max_drop: float) -> Dict[str, Layers]:
        """Revert layers to float32, part by part, until no metric drops by more; returns the layers by part."""
        layers = {}
        for index, part in enumerate(self.entries):
            folders = [self.int8 if i < index else self.floats for i in range(len(self.entries))]
            before = self._drop_to(self._evaluate(folders)) if index else 0.

            def drop(run: Run, folders: List[Path] = folders, index: int = index) -> float:
                return self._drop_to(self._evaluate(folders, index, run))

            layers[part.name] = self.quantize(part, inputs[part.name], drop, max(max_drop - before, 0.))
        return layers

    def _evaluate(self, folders: Sequence[Path], index: int = -1, run: Optional[Run] = None) -> Dict[str, float]:
        runs = [run if run is not None and i == index else load_runtime(folder / part.file)
                for i, (folder, part) in enumerate(zip(folders, self.entries))]
        assert self.evaluate is not None
        return self.evaluate(self.entries, runs)

    def _drop_to(self, values: Dict[str, float]) -> float:
        # A metric is missing if nothing was detected.
        return max(round(before - values.get(name, 0.), 6) for name, (before, *_) in self.accuracy.items())

    def report(self, part: Part, data: InputData, images: Sequence[Tensor], layers: Layers, out: Path
               ) -> Int8PartReport:
        """Compare an int8 file with the float32 file; NaN or infinite values are an error."""
        runs = [load_runtime(folder / part.file) for folder in (self.floats, self.int8)]
        inputs = list(images if images and part.name in _ENTRIES else itertools.islice(data.inputs, _COMPARED))
        outputs = [[run(x) for x in inputs] for run in runs]
        distances = [_distance(expected, actual) for expected, actual in zip(*(zip(*each) for each in outputs))]
        if not all(map(math.isfinite, distances)):
            raise UserError(f'the int8 file of the {part.name} gives NaN or infinite values. Nothing was written')
        return Int8PartReport(part.name, out / part.file, bytes_of(self.int8 / part.file),
                              bytes_of(self.floats / part.file), layers, max(distances))


def _distance(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """Norm of the difference over norm of an output, over all inputs."""
    wanted = torch.cat([x.flatten() for x in expected]).double()
    difference = torch.cat([x.flatten() for x in actual]).double() - wanted
    return (difference.norm() / wanted.norm().clamp(min=1e-12)).item()


def _check_drop(files: _Files, layers: Dict[str, Layers], drop: float, max_drop: float, search: bool) -> None:
    moved = ', '.join(f'{name} {before:.3f} -> {after:.3f}' for name, (before, *others) in files.accuracy.items()
                      for after in others)
    if not drop <= max_drop:
        hint = '' if search or files.entries[0].file.endswith(SUFFIXES['onnx']) else (
            f'. --accuracy-drop {max_drop:g} lets NNCF search for layers to keep in float32')
        raise UserError(f'int8 costs {drop:.3f} of accuracy, more than the accepted {max_drop:g} ({moved}). Nothing '
                        f'was written{hint}')
    if not any(each.int8 for each in layers.values()):
        raise UserError(f'no layer can be int8 with an accuracy drop of at most {max_drop:g}: the search reverted all '
                        'of them to float32. Nothing was written')


def _inputs_of(model: nn.Module, calibration: Batches, entries: Sequence[Part]) -> Dict[str, InputData]:
    """The calibration inputs of each part."""
    images = InputData(_Images(model, calibration), len(calibration))
    named = {part.name: images for part in entries if part.name in _ENTRIES}
    heads = {name: head for name, head in roi_heads(model).items() if any(part.name == name for part in entries)}
    return {**named, **(_roi_inputs(model, calibration, list(heads)) if heads else {})}


class _Images:
    """The normalised images of batches, computed anew each time: they may not fit in memory."""

    def __init__(self, model: nn.Module, batches: Batches) -> None:
        self.model, self.batches = model, batches

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.batches:
            yield batch if isinstance(batch, Tensor) else self.model.data_preprocessor(batch, False)['inputs']


def _roi_inputs(model: nn.Module, calibration: Batches, names: Sequence[str]) -> Dict[str, InputData]:
    """RoI features that the heads get on the images, spread over the RoIs of each image."""
    model = to_deploy(model)
    per_image = max(_ROIS // len(calibration), 1)
    collected: Dict[str, List[Tensor]] = {name: [] for name in names}
    heads = roi_heads(model)
    for name in names:
        heads[name].register_forward_pre_hook(functools.partial(_collect, collected[name], per_image))
    for batch in calibration:
        model.test_step(batch)
    for name, features in collected.items():
        if not features:
            raise UserError(f'the {name} has nothing to calibrate on: the detector finds no object in the calibration '
                            'images')
    return {name: InputData(features, len(features)) for name, features in collected.items()}


def _collect(into: List[Tensor], count: int, module: nn.Module, inputs: Tuple[Tensor, ...]) -> None:
    features = inputs[0]
    if len(features):
        chosen = torch.linspace(0, len(features) - 1, min(count, len(features))).round().long()
        into.append(features[chosen].contiguous())
