"""The file that describes the other files of an export."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

import torch

from mmfasternet.errors import UserError
from mmfasternet.version import __version__

MANIFEST = 'export.json'
_IGNORED = ('init_cfg', 'pretrained', 'train_cfg', 'test_cfg', 'data_preprocessor', 'bbox_coder', 'with_cp',
            'frozen_stages', 'norm_eval', 'drop_path_rate')


@dataclass(frozen=True)
class Part:
    """A file of an export.

    Attributes:
        name: ``'classifier'``, ``'backbone'``, ``'dense'``, ``'bbox_head'``,
            ``'mask_head'``; the heads of a cascade are numbered from 0.
        file: Its name.
        outputs: Names of the outputs in groups. For the dense part, the first
            group is the maps, and each other group one kind of the head's
            outputs, with a name for each level.
    """
    name: str
    file: str
    outputs: List[List[str]]


@dataclass(frozen=True)
class Manifest:
    """Description of an export.

    Attributes:
        format: ``'onnx'`` or ``'openvino'``.
        parts: Its files.
        model: Hash of the config of the layers; None if there was no config.
        versions: Versions of the libraries that wrote it.
        dtype: Type of most of its layers, ``'float32'`` or ``'int8'``.
        float32_layers: For an int8 export, the float32 layers by part.
        accuracy: For an int8 export, metrics by name, each in float32 and in
            int8; empty if not evaluated.
    """
    format: str
    parts: List[Part]
    model: Optional[str]
    versions: Dict[str, str]
    dtype: str = 'float32'
    float32_layers: Dict[str, List[str]] = field(default_factory=dict)
    accuracy: Dict[str, List[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, file_format: str, parts: List[Part], model_cfg: Optional[Dict[str, Any]], **others: Any) -> 'Manifest':
        """The manifest of a new export."""
        return cls(file_format, parts, None if model_cfg is None else fingerprint(model_cfg),
                   dict(mmfasternet=__version__, torch=torch.__version__), **others)

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=1) + '\n', encoding='utf-8')

    @classmethod
    def read(cls, folder: Union[str, Path]) -> 'Manifest':
        """Read it from a folder.

        Raises:
            UserError: If there is none, it can't be read, or a file that it names is missing.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise UserError(f"folder '{folder}' holds no {MANIFEST}: it must be a folder that mmfasternet export made")
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            manifest = cls(**dict(content, parts=[Part(**part) for part in content['parts']]))
        except OSError as error:
            raise UserError(f"'{path}' can't be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"'{path}' can't be read ({error!r}). Export the model again") from None
        for part in manifest.parts:
            if not isinstance(part.file, str):
                raise UserError(f"'{path}' can't be read ({part.name} has no file). Export the model again")
            if not (Path(folder) / part.file).is_file():
                raise UserError(f"'{path}' names {part.file}, which is missing. Export the model again")
        return manifest


def fingerprint(model_cfg: Dict[str, Any]) -> str:
    """A hash of the layers in a model's config, without what may change after an export, such as thresholds.
    """
    return hashlib.sha256(json.dumps(_layers(model_cfg), sort_keys=True, default=str).encode()).hexdigest()[:16]


def _layers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _layers(item) for key, item in value.items()
                if key not in _IGNORED and not key.startswith('loss')}
    return [_layers(item) for item in value] if isinstance(value, (list, tuple)) else value
