"""Training and testing through MMEngine's ``Runner``, whatever the config's scope."""

import os
import time
from typing import Any, Dict, Optional, Sequence

import torch
from mmdet.evaluation import DumpDetResults
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmfasternet.checkpoints import safe_loading
from mmfasternet.datasets.naming import name_images_in_errors
from mmfasternet.engine.checks import check_run
from mmfasternet.engine.config import name_broken_images, remove_amp_without_gpu
from mmfasternet.engine.deploying import DeployHook, DeployOptions, is_export, use_exported
from mmfasternet.engine.hooks.checkpoint import atomic_files, use_atomic_checkpoints
from mmfasternet.engine.hooks.finite_loss import FiniteLossHook
from mmfasternet.engine.hooks.resume import ResumeHook, set_resume, use_resumable_loop
from mmfasternet.engine.hooks.seed import (
    SeedHook,
    allow_what_has_no_deterministic_form,
    restoring_determinism,
    seed_by_draw,
)
from mmfasternet.engine.hooks.stop import StopHook, TrainingStopped
from mmfasternet.engine.speedups import SpeedUpHook, SpeedUps
from mmfasternet.errors import UserError


class _NameImagesHook(Hook):
    """Has the data sets name the image that they fail on."""

    priority = 'LOWEST'

    def before_run(self, runner: Runner) -> None:
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if hasattr(loop, 'dataloader'):
                name_images_in_errors(loop.dataloader.dataset)

    def before_train_epoch(self, runner: Runner) -> None:
        name_images_in_errors(runner.train_dataloader.dataset)  # a hook may have switched the pipeline


def train(cfg: Config,
          options: Optional[SpeedUps] = None,
          hooks: Sequence[Hook] = (),
          skip_nan: bool = False) -> Runner:
    """Train by a config, with validation where it has one.

    What is random is so by the seed, the iteration and the sample, and
    checkpoints are there whole or not at all: a training that was interrupted
    anywhere and is resumed gives what an unbroken one gives. SIGTERM ends it
    in order.

    Args:
        cfg: The config. Its ``resume`` may also be a checkpoint to go on
            from, or ``'auto'``; see
            :func:`~mmfasternet.engine.hooks.resume.set_resume`.
        options: What makes it faster. Defaults to None, nothing.
        hooks: Hooks beside the config's. Defaults to none.
        skip_nan: Leave out batches whose loss is NaN or infinite, instead of
            stopping there. Defaults to False.

    Raises:
        UserError: If the config's data or checkpoints can't be used, the
            options don't go with this machine, a loss is NaN or infinite, or
            a checkpoint can't be written.
    """
    options = options or SpeedUps()
    options.apply_to_config(cfg)
    if cfg.get('resume'):
        set_resume(cfg, cfg.resume if isinstance(cfg.resume, str) else cfg.get('load_from') or 'auto')
    use_atomic_checkpoints(cfg)
    use_resumable_loop(cfg)
    with safe_loading(), atomic_files(), restoring_determinism():
        runner = _build(cfg, ('train', ) if cfg.get('val_cfg') is None else ('train', 'val'))
        if cfg.get('randomness', {}).get('deterministic') and torch.cuda.is_available():
            allow_what_has_no_deterministic_form()
        stop = StopHook()
        for hook in (SeedHook(), ResumeHook(), SpeedUpHook(options), FiniteLossHook(skip_nan), *hooks, stop):
            runner.register_hook(hook)
        try:
            runner.train()
        except TrainingStopped as stopped:
            runner.logger.info(str(stopped))
        finally:
            stop.release()
    _destroy_process_group()
    return runner


def test(cfg: Config,
         checkpoint: str,
         out: Optional[str] = None,
         deploy: Optional[DeployOptions] = None) -> Dict[str, Any]:
    """Evaluate a checkpoint, or an exported detector, on the config's test data.

    Args:
        cfg: The config.
        checkpoint: Path or URL; or folder of an export.
        out: Pickle file for the raw predictions. Defaults to None.
        deploy: Inference form of the model. Defaults to None, the model as it
            is.

    Returns:
        The metrics by name.

    Raises:
        UserError: If the config's data or the checkpoint can't be used.
    """
    if out and not out.endswith(('.pkl', '.pickle')):
        raise UserError(f"--out '{out}' must end with .pkl or .pickle")
    deploy = deploy or DeployOptions()
    exported = is_export(checkpoint)
    if exported:
        use_exported(cfg, checkpoint, deploy)
    cfg.load_from = None if exported else checkpoint
    with safe_loading():
        runner = _build(cfg, ('test', ))
        if deploy.deploy and not exported:
            runner.register_hook(DeployHook(deploy))
        if out:
            runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=out))
        metrics = runner.test()
    _destroy_process_group()
    return metrics


def _build(cfg: Config, splits: tuple) -> Runner:
    setup_cache_size_limit_of_dynamo()
    _check_launcher(cfg.launcher)
    name_broken_images(cfg)
    if 'train' in splits:
        seed_by_draw(cfg)
    remove_amp_without_gpu(cfg)
    check_run(cfg, splits)
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        _init_cpu_processes(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.register_hook(_NameImagesHook())
    return runner


def _check_launcher(launcher: str) -> None:
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        raise UserError('--launcher pytorch is for processes that torchrun starts: use tools/dist_train.sh or '
                        'tools/dist_test.sh')
    if launcher in ('slurm', 'mpi') and not torch.cuda.is_available():
        raise UserError(f'--launcher {launcher} needs GPUs, and PyTorch sees none here. On CPUs use torchrun and '
                        f'--launcher pytorch (tools/dist_train.sh)')


def _init_cpu_processes(cfg: Config) -> None:
    """Several processes without a GPU: MMEngine sets CUDA devices and knows nothing else."""
    if 'SyncBN' in str(cfg.model):
        raise UserError('SyncBN of several processes needs GPUs, and PyTorch sees none here. Take BN '
                        '(--cfg-options model.backbone.norm_cfg.type=BN)')
    torch.distributed.init_process_group('gloo')
    wrapper = dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None)
    wrapper['find_unused_parameters'] = cfg.get('find_unused_parameters', False)
    cfg.model_wrapper_cfg = {**wrapper, **(cfg.get('model_wrapper_cfg') or {}), 'device_ids': None}


def _destroy_process_group() -> None:
    """Leave the process group in order.

    gloo reports a work as done before its thread lets go of the tensors, which takes Python's lock: an interpreter that
    ends in between aborts the process.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        time.sleep(0.5)
