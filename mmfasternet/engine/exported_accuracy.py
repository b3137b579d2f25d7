"""The accuracy of a model with exported files instead of its networks."""

import contextlib
import copy
import io
import tempfile
from typing import Dict, Sequence

from mmengine.config import Config, ConfigDict
from torch import nn

from mmfasternet.compat import instances_restored
from mmfasternet.config_tree import walk
from mmfasternet.deploy.export.exported_networks import Run, replace_networks
from mmfasternet.deploy.export.int8 import Evaluate
from mmfasternet.deploy.export.manifest import Part
from mmfasternet.engine.run_options import TestOptions
from mmfasternet.engine.train_test import test
from mmfasternet.errors import UserError

# Divisors of metrics by the end of their names: AP and top-1 are compared between 0 and 1.
_METRICS = {'bbox_mAP': 1, 'segm_mAP': 1, 'pascal_voc/mAP': 1, 'accuracy/top1': 100}


def accuracy_of(cfg: Config, model: nn.Module) -> Evaluate:
    """A function that evaluates a model on its config's validation data, or on test data if there is none.

    Args:
        cfg: The model's config, which is not changed.
        model: The model with its weights, which is not changed.

    Returns:
        A function of an export's parts and of its files as functions, which
        returns box AP, mask AP or top-1 accuracy by name, between 0 and 1.

    Raises:
        UserError: If the config has no such data; from the function, if the
            data can't be used or it gives other metrics.
    """
    cfg = copy.deepcopy(cfg)
    for key in ('dataloader', 'evaluator'):
        cfg[f'test_{key}'] = cfg.get(f'val_{key}') or cfg.get(f'test_{key}')
        if not cfg[f'test_{key}']:
            raise UserError(f"config '{cfg.filename}' has no val_{key}, which is needed to measure what int8 costs: "
                            'give a config that has it, or use --no-accuracy')
    cfg.test_cfg = cfg.get('test_cfg') or ConfigDict()
    _write_nothing(cfg)

    def evaluate(parts: Sequence[Part], runs: Sequence[Run]) -> Dict[str, float]:
        replaced = copy.deepcopy(model)
        replace_networks(replaced, parts, runs)
        with tempfile.TemporaryDirectory() as folder, instances_restored(), contextlib.redirect_stdout(io.StringIO()):
            cfg.work_dir = folder
            metrics = test(cfg, TestOptions(), replaced)
        found = {name: value / scale for name, value in metrics.items()
                 for end, scale in _METRICS.items() if name.endswith(end)}
        if metrics and not found:  # there are none if nothing is detected
            raise UserError(f"the evaluator of '{cfg.filename}' gives {', '.join(metrics)}, but none of "
                            f"{', '.join(_METRICS)}, which are needed to measure what int8 costs: use --no-accuracy")
        return found

    return evaluate


def _write_nothing(cfg: Config) -> None:
    """Remove parts that write outside of the work folder."""
    cfg.log_level = 'ERROR'
    cfg.visualizer = ConfigDict(type='Visualizer', name='exported_accuracy', vis_backends=[])
    cfg.default_hooks = {key: hook for key, hook in (cfg.get('default_hooks') or {}).items() if key != 'visualization'}
    cfg.test_dataloader.persistent_workers = False  # they would outlive the evaluation
    for _, node in walk([cfg.test_evaluator]):
        node.pop('outfile_prefix', None)
