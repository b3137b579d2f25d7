"""Models as ONNX and OpenVINO files, checked against PyTorch before they are there."""

import contextlib
import copy
import io
import math
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmengine.model import BaseModel
from mmengine.utils import digit_version
from torch import Tensor, nn

from mmfasternet.compat import tree_leaves
from mmfasternet.deploy.conversion import set_eval_mode, to_deploy
from mmfasternet.deploy.dense import DensePart, each_module, image_channels
from mmfasternet.deploy.export.end_to_end import EndToEndDetector
from mmfasternet.deploy.export.manifest import Manifest, Part
from mmfasternet.deploy.export.runtimes import SUFFIXES, load_runtime
from mmfasternet.errors import ArgumentError, UserError
from mmfasternet.files import check_folder
from mmfasternet.installed import require

_PACKAGES = dict(onnx=('onnx', 'onnxscript', 'onnxruntime'), openvino=('onnx', 'onnxscript', 'openvino'))
_OPSET = 18  # the oldest that PyTorch's exporter writes
_OLDEST, _TESTED = '2.7.0', '2.11.0'  # PyTorch whose exporter may serve, and the oldest that export is tested with


@dataclass(frozen=True)
class PartReport:
    """An exported part, and how far its outputs are from PyTorch's.

    Attributes:
        name: Name of the part.
        file: Its file.
        bytes: Size of the file, with the weights beside it if there are any.
        weight_bytes: Size of the weights in PyTorch.
        checked: On what it was checked, such as ``'2 random, 4 real'``.
        difference: Largest difference to PyTorch over all outputs.
        relative: The same over the largest value of the output, the figure
            that must not exceed the tolerance.
    """
    name: str
    file: Path
    bytes: int
    weight_bytes: int
    checked: str
    difference: float
    relative: float


class _Target(NamedTuple):
    """A module to export, and how its file is described."""
    name: str
    module: nn.Module
    input_name: str
    axes: Dict[int, str]
    shapes: Sequence[Tuple[int, ...]]  # of random inputs; the first is traced


def export_model(model: nn.Module,
                 out_dir: str,
                 file_format: str = 'onnx',
                 parts: bool = False,
                 end_to_end: bool = False,
                 images: Sequence[Tensor] = (),
                 tolerance: float = 1e-4,
                 model_cfg: Optional[Dict[str, Any]] = None) -> List[PartReport]:
    """Write a model in its inference form to ONNX or OpenVINO files, and check them.

    A classifier is written from images to logits, a backbone to its maps, a
    detector's dense part (backbone, neck and dense head) to the maps that its
    RoIs read and the outputs of its RPN, or of its only head. Batch, height and
    width of the images are dynamic, as is the number of RoIs. The files hold
    float32 weights with the norms folded.

    Every file is run on the CPU by ONNX Runtime or OpenVINO and compared with
    the model that was given. Only if all of them pass is ``out_dir`` made.

    Args:
        model: A backbone, classifier or detector; it is not changed.
        out_dir: New folder for the files and ``export.json``, which says what
            they are.
        file_format: ``'onnx'`` or ``'openvino'``. Defaults to ``'onnx'``.
        parts: Write the box and the mask head of a two-stage detector as well,
            so that :class:`ExportedDetector` needs no weights. Defaults to
            False.
        end_to_end: Write a Faster or Mask R-CNN as one ONNX file instead, from an
            image to boxes, scores, labels and masks of 28 x 28; see
            :class:`~mmfasternet.deploy.export.end_to_end.EndToEndDetector`.
            Defaults to False.
        images: Normalised real images ``(N, C, H, W)`` to check on, beside
            random ones. Defaults to none.
        tolerance: Largest accepted difference, relative to the largest value
            of an output. Defaults to 1e-4.
        model_cfg: The model's config, for the manifest. Defaults to None.

    Returns:
        A report for each file.

    Raises:
        ArgumentError: If the model can't be exported, or not so.
        UserError: If ``out_dir`` exists, a file differs by more than the
            tolerance, a package is missing, or an older PyTorch can't write
            the file.
    """
    if file_format not in SUFFIXES:
        raise ArgumentError(f'format must be one of {tuple(SUFFIXES)}, got {file_format!r}')
    if end_to_end and (parts or file_format != 'onnx'):
        raise ArgumentError('an end-to-end detector is one ONNX file: export it without --parts and --format')
    out = Path(out_dir)
    check_folder(out)
    if out.exists():
        raise UserError(f"'{out_dir}' exists. Name a new folder, or remove it")
    if digit_version(torch.__version__) < digit_version(_OLDEST):
        raise UserError(f'PyTorch {torch.__version__} is installed, whose exporter writes fixed sizes only: export '
                        f'needs {_OLDEST}, and is tested with {_TESTED} and later')
    for package in _PACKAGES[file_format]:
        require(package)
    original = copy.deepcopy(model).cpu().float()
    set_eval_mode(original)
    deployed = to_deploy(original, algorithm='conv', memory_format=torch.contiguous_format)
    nearest = next(folder for folder in out.absolute().parents if folder.is_dir())
    with tempfile.TemporaryDirectory(dir=nearest, prefix=f'.{out.name}-') as temporary, torch.no_grad():
        folder = Path(temporary) / out.name
        folder.mkdir()
        reports, entries = [], []
        for target, oracle in zip(_targets(deployed, parts, end_to_end), _targets(original, parts, end_to_end)):
            file = folder / (target.name + SUFFIXES[file_format])
            names = _output_names(target)
            _write(target, tree_leaves(names), file)
            real = images if target.input_name == 'images' else ()
            reports.append(_check(oracle, file, real, tolerance, out))
            entries.append(Part(target.name, file.name, names))
        Manifest.of(file_format, entries, model_cfg).write(folder)
        out.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(out)
    return reports


def _targets(model: nn.Module, parts: bool, end_to_end: bool) -> List[_Target]:
    """What is exported of a model."""
    channels = image_channels(model)
    if end_to_end:
        return [_Target('detector', EndToEndDetector(model), 'images', {2: 'height', 3: 'width'},
                        [(1, channels, 160, 192), (1, channels, 96, 130)])]
    heads = _roi_heads(model) if parts else []
    if isinstance(model, BaseDetector):
        name, module = 'dense', DensePart(model)
    elif isinstance(model, BaseModel):
        name, module = 'classifier', model
    else:
        name, module = 'backbone', model
    shapes = [(2, channels, 128, 192), (1, channels, 160, 96)]
    targets = [_Target(name, module, 'images', {0: 'batch', 2: 'height', 3: 'width'}, shapes), *heads]
    if parts:
        held = {id(p) for target in targets for p in target.module.parameters()}
        lacking = next((name for name, p in model.named_parameters() if id(p) not in held), None)
        if lacking:
            raise ArgumentError(f'--parts is not for this {type(model).__name__}, which has weights in no part of it '
                                f'({lacking}). Export without it')
    return targets


def _roi_heads(model: nn.Module) -> List[_Target]:
    roi_head: Any = getattr(model, 'roi_head', None)
    # Their subclasses call their heads in ways of their own.
    if type(roi_head) not in (StandardRoIHead, CascadeRoIHead) or roi_head.with_shared_head:
        kind = type(model if roi_head is None else roi_head).__name__
        raise ArgumentError(f'--parts is for detectors with a StandardRoIHead or CascadeRoIHead, and this is a {kind}. '
                            f'Export without it')
    targets = []
    for kind in ('bbox', 'mask'):
        heads = getattr(roi_head, f'{kind}_head', None)
        extractors = each_module(getattr(roi_head, f'{kind}_roi_extractor', None))
        for index, (head, extractor) in enumerate(zip(each_module(heads), extractors)):
            size = (extractor.out_channels, *extractor.roi_layers[0].output_size)
            name = f'{kind}_head' + (f'_{index}' if isinstance(heads, nn.ModuleList) else '')
            targets.append(_Target(name, head, 'roi_features', {0: 'rois'}, [(3, *size), (7, *size)]))
    return targets


def _output_names(target: _Target) -> List[List[str]]:
    """Names of the outputs in groups, as :class:`Part` has them."""
    outputs = target.module(torch.zeros(target.shapes[0]))
    if isinstance(target.module, DensePart):
        maps, kinds = outputs
        return [[f'map_{i}' for i in range(len(maps))],
                *([f'head_{kind}_{level}' for level in range(len(tensors))] for kind, tensors in enumerate(kinds))]
    known = dict(classifier=['logits'], detector=['boxes', 'scores', 'labels', 'masks'],
                 bbox_head=['cls_score', 'bbox_pred'], mask_head=['mask_preds'])
    count = len(tree_leaves(outputs))
    names = known.get(target.name.rstrip('_0123456789'), [f'map_{i}' for i in range(count)])
    return [[name] for name in names[:count]]


class _Flat(nn.Module):
    """Gives a module's output tensors one after another."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        return tuple(tree_leaves(self.module(x)))


def _write(target: _Target, output_names: List[str], file: Path) -> None:
    """Write one part by PyTorch's exporter; OpenVINO reads its file."""
    onnx_file = file.with_suffix(SUFFIXES['onnx'])
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')  # on its own internals
        try:
            torch.onnx.export(
                _Flat(target.module), (torch.rand(target.shapes[0]), ), str(onnx_file), dynamo=True,
                external_data=False, opset_version=_OPSET, input_names=[target.input_name], output_names=output_names,
                dynamic_shapes=(target.axes, ), verbose=False)
        except Exception as error:  # older exporters do not know all operators
            if digit_version(torch.__version__) >= digit_version(_TESTED):
                raise
            raise UserError(f"PyTorch {torch.__version__} can't export the {target.name}: {type(error).__name__}. "
                            f'Export is tested with PyTorch {_TESTED} and later: use one of these') from error
    import onnx
    content = onnx.load(onnx_file)
    for node in content.graph.node:  # the exporter's notes on where in the source it comes from
        del node.metadata_props[:]
    onnx.save(content, onnx_file)
    onnx.checker.check_model(content)
    if file != onnx_file:
        import openvino
        openvino.save_model(openvino.convert_model(str(onnx_file)), str(file), compress_to_fp16=False)
        onnx_file.unlink()


def _check(oracle: _Target, file: Path, real: Sequence[Tensor], tolerance: float, out: Path) -> PartReport:
    """Compare a file with PyTorch; refuse it if it differs."""
    run, module = load_runtime(file), _Flat(oracle.module)
    difference = relative = 0.
    inputs = [torch.rand(shape) * 4 - 2 for shape in oracle.shapes]
    for x in (*inputs, *real):
        for actual, expected in zip(run(x), module(x)):
            if actual.shape != expected.shape:  # an end-to-end detector may find more or fewer objects
                difference = relative = math.inf
            elif expected.numel():
                distance = (actual - expected).abs().max()
                share = distance / expected.abs().max().clamp(min=1e-12)
                difference = max(difference, distance.nan_to_num(math.inf).item())
                relative = max(relative, share.nan_to_num(math.inf).item())
    if not relative <= tolerance:
        raise UserError(f'the exported {oracle.name} differs from PyTorch by {relative:.1e} of its largest output, '
                        f'which is over the tolerance of {tolerance:.1e}. Nothing was written')
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    files = [file, file.with_suffix('.bin')] if file.suffix == SUFFIXES['openvino'] else [file]
    checked = f'{len(inputs)} random' + (f', {len(real)} real' if real else '')
    return PartReport(oracle.name, out / file.name, sum(f.stat().st_size for f in files), weights, checked, difference,
                      relative)
