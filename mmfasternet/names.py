"""Registers our names with other packages once they are imported: our models, and checkpoints on the Hub.

``import mmfasternet`` itself imports none of these packages.
"""

from contextlib import suppress
from importlib import import_module
from typing import Any, Dict, Iterator

from mmfasternet.after_import import after_import
from mmfasternet.config_files import configs_folder

#: What names of checkpoints on Hugging Face's Hub begin with: timm's and huggingface's.
HUB_PREFIXES = ('hf-hub:', 'hf://')


def add_names() -> None:
    """Add our names to the lists of MMPretrain, MMDetection and MMEngine, now or when these are imported."""
    after_import('mmpretrain.apis.model', _add_to_mmpretrain)
    after_import('mmengine.infer.infer', _add_to_mmdetection)
    after_import('mmengine.runner.checkpoint', _add_to_mmengine)


def _add_to_mmpretrain() -> None:
    from mmpretrain.apis.model import ModelHub
    folder = configs_folder()
    ModelHub.register_model_index(folder / 'imagenet-metafile.yml', config_prefix=folder.parent)


def _add_to_mmdetection() -> None:
    from mmfasternet.compat import list_models_also
    list_models_also('mmdet', _detectors)


def _detectors() -> Iterator[Dict[str, Any]]:
    """The entries of our detectors in MMEngine's format; those without published weights get random ones."""
    from mmengine.fileio import load
    folder = configs_folder()
    for model in load(folder / 'metafile.yml')['Models']:
        yield dict(model, Config=str(folder.parent / model['Config']), Weights=model.get('Weights'))


def _add_to_mmengine() -> None:
    from mmengine.runner.checkpoint import CheckpointLoader
    for prefix in HUB_PREFIXES:
        with suppress(KeyError):  # another package's loader is kept
            CheckpointLoader.register_scheme(prefix, load_from_hub)


def load_from_hub(path: str, map_location: Any = None) -> Dict[str, Any]:
    """:func:`~mmfasternet.checkpoints.load_for_mmengine`, imported on first use."""
    return import_module('mmfasternet.checkpoints').load_for_mmengine(path, map_location)
