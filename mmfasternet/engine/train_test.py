"""Training and testing through MMEngine's ``Runner``, whatever the config's scope."""

import copy
import inspect
import random
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional, Tuple

import numpy as np
import torch
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from mmfasternet.checkpoints import safe_loading
from mmfasternet.compat import forget_visualizer
from mmfasternet.engine.build_errors import named_build_errors
from mmfasternet.engine.building import build_unloaded
from mmfasternet.engine.checks import check_checkpoints, check_complete, check_data
from mmfasternet.engine.loops import TrainingStopped
from mmfasternet.engine.model_checks import check_model
from mmfasternet.engine.outputs import check_outputs
from mmfasternet.engine.part_types import check_types
from mmfasternet.engine.preparing import prepare, what_was_added
from mmfasternet.engine.processes import check_launcher, end_processes, is_first_process, join_processes
from mmfasternet.engine.run_options import Options, TestOptions, TrainOptions
from mmfasternet.engine.terminal import TerminalRunner
from mmfasternet.errors import UserError


def train(cfg: Config, options: Optional[TrainOptions] = None) -> Runner:
    """Train from a config, with validation if it has one.

    All randomness depends on the seed, the iteration and the sample, and
    checkpoints are atomic: a training that was interrupted anywhere and
    resumed gives the same result as an uninterrupted one. SIGTERM ends it
    cleanly.

    Args:
        cfg: The config, which is not changed;
            :func:`~mmfasternet.engine.preparing.prepare` makes the config that
            runs.
        options: Training options. Defaults to None: as the config says.

    Returns:
        The runner, after the training.

    Raises:
        UserError: If the config's data or checkpoints can't be used, the
            options don't work on this machine, a loss is NaN or infinite, or a
            folder or a checkpoint can't be written.
    """
    with safe_loading(), _determinism_restored():
        runner = _make_runner(cfg, options or TrainOptions())
        try:
            with named_build_errors(runner.cfg):
                runner.train()
        except TrainingStopped as stopped:  # in another loop than ours
            runner.logger.info(str(stopped))
        finally:
            _end(runner)
    end_processes()
    return runner


def test(cfg: Config, options: TestOptions, model: Optional[nn.Module] = None) -> Dict[str, Any]:
    """Evaluate a checkpoint, or an exported model, on the config's test data.

    Args:
        cfg: The config, which is not changed;
            :func:`~mmfasternet.engine.preparing.prepare` makes the config that
            runs.
        options: The checkpoint and the test options.
        model: A model to evaluate without changes. Defaults to None: the
            config's model.

    Returns:
        The metrics by name.

    Raises:
        UserError: If the config's data or the checkpoint can't be used, or the
            outputs can't be written.
    """
    with safe_loading(), _determinism_restored():
        runner = _make_runner(cfg, options, model)
        try:
            with named_build_errors(runner.cfg):
                metrics = runner.test()
        finally:
            _end(runner)
    end_processes()
    return metrics


def _end(runner: Runner) -> None:
    """What has to be undone after a run, however it ends."""
    runner.call_hook('after_loop')  # for loops other than ours
    # MMEngine would give it to the next run of the process if that has the same name, with the folder of this one.
    forget_visualizer(runner.visualizer)


def _make_runner(cfg: Config, options: Options, given: Optional[nn.Module] = None) -> Runner:
    """MMEngine's runner of the prepared config, with the model that was checked, or the given model."""
    setup_cache_size_limit_of_dynamo()
    check_complete(cfg, isinstance(options, TrainOptions))
    check_launcher(cfg.get('launcher', 'none'))
    cfg = prepare(cfg, options)
    trains = isinstance(options, TrainOptions)
    splits = ('test', ) if not trains else ('train', ) if cfg.get('val_cfg') is None else ('train', 'val')
    if is_first_process():
        check_outputs(cfg, splits)
    check_types(cfg, splits)
    check_data(cfg, splits)
    seeded = _seed(cfg)
    model = given or build_unloaded(cfg)
    state = _random_state()
    if given is None:
        check_model(cfg, model, splits)
        check_checkpoints(cfg, model, trains)
    join_processes(cfg.get('launcher', 'none'))
    with named_build_errors(cfg):
        runner = _runner_of(cfg, model, given is not None)
    if seeded:
        _set_random_state(state)  # as if the runner, which seeds again, had built the model
    runner.logger.info(what_was_added(cfg))
    return runner


def _runner_of(cfg: Config, model: nn.Module, is_given: bool) -> Runner:
    kind = cfg.get('runner_type') or TerminalRunner
    if isinstance(kind, str):
        with RUNNERS.switch_scope_and_registry(cfg.get('_scope_')) as registry:
            kind = registry.get(kind)
    if kind is None:
        raise UserError(f"runner_type '{cfg.runner_type}' is not registered: import its module with custom_imports")
    if kind.from_cfg.__func__ is not Runner.from_cfg.__func__:
        if is_given:
            raise UserError(f"runner_type '{cfg.runner_type}' builds its own model: it can't evaluate this one")
        return RUNNERS.build(cfg)  # a custom runner may read a config differently, and builds its own model
    # The same as from_cfg(), except for the model: its arguments are named like the config's entries.
    names = [name for name in inspect.signature(kind.__init__).parameters if name in cfg and name != 'model']
    return kind(model=model, cfg=cfg, **{name: copy.deepcopy(cfg[name]) for name in names})


def _seed(cfg: Config) -> bool:
    """Seed as MMEngine's runner does before it builds a model; not if several processes must still agree on a seed."""
    randomness = cfg.get('randomness') or {}
    seed = randomness.get('seed')
    if seed is None or randomness.get('diff_rank_seed') and cfg.get('launcher', 'none') != 'none':
        return False
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return True


def _random_state() -> Tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_random_state(state: Tuple[Any, Any, torch.Tensor]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])


@contextmanager
def _determinism_restored() -> Iterator[None]:
    """Restore PyTorch's setting for deterministic operators."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
