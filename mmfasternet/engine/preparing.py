"""Prepares a config for a run: the only place where a config is changed.

The prepared config defines the run: any program that reads it, such as MMDetection's own ``tools/train.py``, does the
same.
"""

from typing import List

from mmengine.config import Config

from mmfasternet.engine.config import add_imports, with_text_types
from mmfasternet.engine.config_parts import ENTRY, TEST_PARTS, TRAIN_PARTS, omitted
from mmfasternet.engine.config_steps import TEST_STEPS, TRAIN_STEPS
from mmfasternet.engine.run_options import Options, TrainOptions
from mmfasternet.errors import UserError


def prepare(cfg: Config, options: Options) -> Config:
    """Return a copy of a config that names everything that runs.

    First it applies the options, step by step in the order of ``TRAIN_STEPS``
    or ``TEST_STEPS``, then it adds the parts of ``TRAIN_PARTS`` or
    ``TEST_PARTS``: each a registered hook, loop, sampler or transform, which
    the config then names. An existing part is not changed, so a prepared
    config can be prepared again.

    Args:
        cfg: The config, which is not changed. Its ``mmfasternet.omit`` lists
            parts that are not added. Its ``resume`` may also be a checkpoint
            to resume from, or ``'auto'``.
        options: Options of a training or of a test.

    Returns:
        The prepared config. Its ``mmfasternet.added`` lists the added parts.

    Raises:
        UserError: If an option does not work with the config or this machine,
            a part to omit is unknown, or there is no model.
        CheckpointError: If a checkpoint to resume from can't be used.
    """
    if 'model' not in cfg:
        raise UserError(f"config '{cfg.filename}' has no model: it is a base for other configs")
    cfg = with_text_types(cfg)
    trains = isinstance(options, TrainOptions)
    steps, parts = (TRAIN_STEPS, TRAIN_PARTS) if trains else (TEST_STEPS, TEST_PARTS)
    for step in steps:
        step(cfg, options)
    entry = dict(cfg.get(ENTRY) or {})
    omit = omitted(cfg)
    unknown = sorted(set(omit) - {*TRAIN_PARTS, *TEST_PARTS})
    if unknown:
        raise UserError(f"{ENTRY}.omit names '{unknown[0]}': it must be one of "
                        f"{', '.join({**TRAIN_PARTS, **TEST_PARTS})}")
    removed = _remove(cfg, omit)
    before = [name for name in entry.get('added') or [] if name not in removed]
    for name in set(omit) & set(before):
        raise UserError(f"{ENTRY}.omit names '{name}', which was added when this config was prepared: omit it in the "
                        'original config')
    added = [*before, *(name for name, add in parts.items() if name not in omit and add(cfg, options))]
    if added != (entry.get('added') or []):
        cfg[ENTRY] = dict(entry, added=added)
    if not any(module.partition('.')[0] == 'mmfasternet' for module in _imports(cfg)):
        add_imports(cfg, ['mmfasternet'])
    return cfg


def _remove(cfg: Config, names: List[str]) -> List[str]:
    """Remove our hooks from a config's hooks; returns the names of those it had."""
    own = cfg.get('custom_hooks') or []
    types = {f'mmfasternet.{name}': name for name in names}
    found = [types[hook['type']] for hook in own if isinstance(hook, dict) and hook.get('type') in types]
    if found:
        cfg.custom_hooks = [hook for hook in own if not (isinstance(hook, dict) and hook.get('type') in types)]
    return found


def what_was_added(cfg: Config) -> str:
    """A log line on a prepared config: what was added, and how to omit it."""
    added = (cfg.get(ENTRY) or {}).get('added') or []
    if not added:
        return 'mmfasternet added nothing to the config'
    return (f"mmfasternet added to the config: {', '.join(added)}. To omit some: --cfg-options "
            f"{ENTRY}.omit=[{added[-1]}]")


def _imports(cfg: Config) -> List[str]:
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    return [imports] if isinstance(imports, str) else list(imports)
