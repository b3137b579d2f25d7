"""Exports models to ONNX and OpenVINO files, which are checked against PyTorch before they are published."""

import contextlib
import copy
import io
import math
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from mmengine.utils import digit_version
from torch import Tensor, nn

from mmfasternet.compat import tree_leaves
from mmfasternet.deploy.conversion import computes_in, set_eval_mode, to_deploy
from mmfasternet.deploy.export.end_to_end_single_stage import EndToEndSingleStage
from mmfasternet.deploy.export.manifest import Manifest, Part
from mmfasternet.deploy.export.runtimes import SUFFIXES, load_runtime
from mmfasternet.deploy.export.targets import Flat, Target, output_names, targets_of
from mmfasternet.errors import ArgumentError, UserError
from mmfasternet.files import check_folder
from mmfasternet.installed import require

_PACKAGES = dict(onnx=('onnx', 'onnxscript', 'onnxruntime'), openvino=('onnx', 'onnxscript', 'openvino'))
_OPSET = 18  # the oldest opset that PyTorch's exporter writes
_OLDEST, _TESTED = '2.7.0', '2.11.0'  # PyTorch: oldest that may work, oldest tested


@dataclass(frozen=True)
class PartReport:
    """An exported part, and how much its outputs differ from PyTorch's.

    Attributes:
        name: Name of the part.
        file: Its file.
        bytes: Size of the file, including a separate weights file if there is
            one.
        weight_bytes: Size of the weights in PyTorch.
        checked: The inputs it was checked on, such as ``'2 random, 4 real'``.
        difference: Largest difference from PyTorch over all outputs.
        relative: The same relative to the largest value of the output; it must
            not exceed the tolerance.
    """
    name: str
    file: Path
    bytes: int
    weight_bytes: int
    checked: str
    difference: float
    relative: float


def export_model(model: nn.Module,
                 out_dir: str,
                 file_format: str = 'onnx',
                 parts: bool = False,
                 end_to_end: bool = False,
                 images: Sequence[Tensor] = (),
                 tolerance: float = 1e-4,
                 model_cfg: Optional[Dict[str, Any]] = None) -> List[PartReport]:
    """Write a model in its inference form to ONNX or OpenVINO files, and check them.

    The file of a classifier goes from images to logits, of a backbone to its maps, of a detector's dense part
    (backbone, neck and dense head) to the maps for its RoIs and the outputs of its RPN or single head. Batch, height
    and width of the images are dynamic, as is the number of RoIs. The files hold float32 weights with the norms folded.

    Every file is run on the CPU with ONNX Runtime or OpenVINO and compared with the given model. ``out_dir`` is made
    only if all files pass.

    Args:
        model: A backbone, classifier or detector; it is not changed.
        out_dir: New folder for the files and ``export.json``, which describes them.
        file_format: ``'onnx'`` or ``'openvino'``. Defaults to ``'onnx'``.
        parts: Write the box and the mask head of a two-stage detector as well,
            so that :class:`ExportedDetector` needs no weights. Defaults to
            False.
        end_to_end: Write a Faster or Mask R-CNN or an RTMDet as one ONNX file
            instead, from an image to boxes, scores, labels and, of Mask R-CNN,
            masks of 28 x 28; see
            :class:`~mmfasternet.deploy.export.end_to_end.EndToEndDetector` and
            :class:`~mmfasternet.deploy.export.end_to_end_single_stage.EndToEndSingleStage`.
            Defaults to False.
        images: Normalised real images ``(N, C, H, W)`` to check on, in addition to random ones. Defaults to none.
        tolerance: Largest accepted difference, relative to the largest value
            of an output. Defaults to 1e-4.
        model_cfg: The model's config, for the manifest. Defaults to None.

    Returns:
        A report for each file.

    Raises:
        ArgumentError: If the model can't be exported, or not with these options.
        UserError: If ``out_dir`` exists, a file differs by more than the
            tolerance, a package is missing, or an older PyTorch can't write
            the file.
    """
    with new_export(out_dir, file_format) as folder:
        reports, entries = write_parts(float32_copy(model), folder, Path(out_dir), file_format, parts, end_to_end,
                                       images, tolerance)
        Manifest.of(file_format, entries, model_cfg).write(folder)
    return reports


@contextlib.contextmanager
def new_export(out_dir: str, file_format: str, packages: Sequence[str] = ()) -> Iterator[Path]:
    """A folder that gets its final name only if the work within the context succeeds.

    Args:
        out_dir: Its final name.
        file_format: Format of its files.
        packages: Packages that are needed in addition to the format's own. Defaults to none.

    Raises:
        ArgumentError: If there is no such format.
        UserError: If the folder exists, a package is missing, or PyTorch is too old.
    """
    if file_format not in SUFFIXES:
        raise ArgumentError(f'format must be one of {tuple(SUFFIXES)}, got {file_format!r}')
    out = Path(out_dir)
    check_folder(out)
    if os.path.lexists(out):  # a link to nothing, too
        raise UserError(f"'{out_dir}' already exists. Choose a new folder, or remove it")
    if digit_version(torch.__version__) < digit_version(_OLDEST):
        raise UserError(f'the exporter of the installed PyTorch {torch.__version__} only writes fixed sizes: export '
                        f'needs {_OLDEST}, and is tested with {_TESTED} and later')
    for package in (*_PACKAGES[file_format], *packages):
        require(package)
    nearest = next(folder for folder in out.absolute().parents if folder.is_dir())
    with tempfile.TemporaryDirectory(dir=nearest, prefix=f'.{out.name}-') as temporary, torch.no_grad():
        folder = Path(temporary) / out.name
        folder.mkdir()
        yield folder
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(out)
        except OSError as error:  # another process has written it meanwhile
            if not os.path.lexists(out):
                raise
            raise UserError(f"'{out_dir}' exists by now ({error.strerror}). Choose a new folder, and export again"
                            ) from None


def float32_copy(model: nn.Module) -> nn.Module:
    """A copy of a model on the CPU, in float32 and eval mode.

    Raises:
        ArgumentError: If it is the inference form in another type.
    """
    if computes_in(model) != torch.float32:
        raise ArgumentError(f'the model computes in {computes_in(model)}: export the model that it was made of')
    model = copy.deepcopy(model).cpu().float()
    set_eval_mode(model)
    return model


def write_parts(model: nn.Module,
                folder: Path,
                out: Path,
                file_format: str,
                parts: bool = False,
                end_to_end: bool = False,
                images: Sequence[Tensor] = (),
                tolerance: float = 1e-4) -> Tuple[List[PartReport], List[Part]]:
    """Write the parts of a model into a folder, and check them; see :func:`export_model`.

    Args:
        model: The model, in float32 on the CPU.
        folder: Where they are written.
        out: The folder's final name, for the reports.

    Returns:
        A report for each file, and the manifest's entries.
    """
    if end_to_end and (parts or file_format != 'onnx'):
        raise ArgumentError('an end-to-end detector is one ONNX file: export it without --parts and --format')
    deployed = to_deploy(model, algorithm='conv', memory_format=torch.contiguous_format)
    reports, entries = [], []
    for target, oracle in zip(targets_of(deployed, parts, end_to_end), targets_of(model, parts, end_to_end)):
        file = folder / (target.name + SUFFIXES[file_format])
        names = output_names(target)
        _write(target, tree_leaves(names), file)
        real = images if target.input_name == 'images' else ()
        reports.append(_check(oracle, file, real, tolerance, out))
        entries.append(Part(target.name, file.name, names))
    return reports, entries


def bytes_of(file: Path) -> int:
    """Size of an exported file, with the weights beside it if there are any."""
    files = [file, file.with_suffix('.bin')] if file.suffix == SUFFIXES['openvino'] else [file]
    return sum(f.stat().st_size for f in files)


def _write(target: Target, output_names: List[str], file: Path) -> None:
    """Write one part with PyTorch's exporter; OpenVINO converts its file."""
    onnx_file = file.with_suffix(SUFFIXES['onnx'])
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')  # on its own internals
        try:
            torch.onnx.export(
                Flat(target.module), (torch.rand(target.shapes[0]), ), str(onnx_file), dynamo=True,
                external_data=False, opset_version=_OPSET, input_names=[target.input_name], output_names=output_names,
                dynamic_shapes=(target.axes, ), verbose=False)
        except Exception as error:  # older exporters lack some operators
            if digit_version(torch.__version__) >= digit_version(_TESTED):
                raise
            raise UserError(f"PyTorch {torch.__version__} can't export the {target.name}: {type(error).__name__}. "
                            f'Export is tested with PyTorch {_TESTED} and later: use such a release') from error
    import onnx
    content = onnx.load(onnx_file)
    for node in content.graph.node:  # the exporter's notes on source locations
        del node.metadata_props[:]
    onnx.save(content, onnx_file)
    onnx.checker.check_model(content)
    if file != onnx_file:
        import openvino
        openvino.save_model(openvino.convert_model(str(onnx_file)), str(file), compress_to_fp16=False)
        onnx_file.unlink()


def _check(oracle: Target, file: Path, real: Sequence[Tensor], tolerance: float, out: Path) -> PartReport:
    """Compare a file with PyTorch; raise an error if it differs."""
    run, module = load_runtime(file), Flat(oracle.module)
    difference = relative = 0.
    is_empty = True
    inputs = [torch.rand(shape) * 4 - 2 for shape in oracle.shapes]
    for x in (*inputs, *real):
        found, single = run(x), isinstance(oracle.module, EndToEndSingleStage)
        wanted = oracle.module.expected(found, x) if single else module(x)
        if len(found) != len(wanted):
            raise UserError(f'the exported {oracle.name} has {len(found)} outputs instead of {len(wanted)}. Nothing '
                            'was written')
        for actual, expected in zip(found, wanted):
            is_empty = is_empty and not expected.numel()
            if actual.shape != expected.shape:  # an end-to-end detector may find more or fewer objects
                difference = relative = math.inf
            elif expected.numel():
                distance = (actual - expected).abs().max()
                share = distance / expected.abs().max().clamp(min=1e-12)
                difference = max(difference, distance.nan_to_num(math.inf).item())
                relative = max(relative, share.nan_to_num(math.inf).item())
    if not relative <= tolerance:
        raise UserError(f'the exported {oracle.name} differs from PyTorch by {relative:.1e} of its largest output, '
                        f'which exceeds the tolerance of {tolerance:.1e}. Nothing was written')
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    checked = f'{len(inputs)} random' + (f', {len(real)} real' if real else '')
    if is_empty:
        checked += ', in which nothing is found'
    return PartReport(oracle.name, out / file.name, bytes_of(file), weights, checked, difference,
                      relative)
