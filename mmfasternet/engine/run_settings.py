"""Corrects conflicting settings of a run where one follows from another, and logs it."""

import inspect
import logging
from typing import Any, Dict, Iterator, List, Tuple

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import METRICS, MODELS

from mmfasternet.config_tree import walk
from mmfasternet.engine.config import class_of, is_classifier, scope_of

# Arguments that PyTorch's DataLoader refuses without workers.
_OF_WORKERS = ('persistent_workers', 'prefetch_factor', 'multiprocessing_context', 'timeout')


def drop_settings_of_workers(cfg: Config, options: Any) -> None:
    """Drop worker settings of data loaders without workers, which PyTorch refuses."""
    found: Dict[str, List[str]] = {}
    for split in ('train', 'val', 'test'):
        for where, loader in walk(cfg.get(f'{split}_dataloader'), f'{split}_dataloader'):
            is_loader = 'dataset' in loader and ('batch_size' in loader or 'batch_sampler' in loader)
            dropped = [key for key in _OF_WORKERS if is_loader and not loader.get('num_workers') and loader.get(key)]
            for key in dropped:
                del loader[key]
            if dropped:
                found.setdefault(' and '.join(dropped), []).append(where)
    for keys, places in found.items():
        _warn(f"{', '.join(places)}: num_workers is 0, so {keys} is dropped")


def keep_topk_that_exist(cfg: Config, options: Any) -> None:
    """Keep only those top-k accuracies of a classifier for which it has enough classes."""
    if not is_classifier(cfg):
        return
    head = cfg.model.get('module', cfg.model).get('head') or {}
    num_classes = head.get('num_classes')
    if not isinstance(num_classes, int):
        return
    found: Dict[Tuple[Tuple[int, ...], Tuple[int, ...]], List[str]] = {}
    for where, node, default in [*_metrics(cfg), *_logged_accuracies(cfg, head)]:
        topk: Any = node.get('topk', default)
        given = (topk, ) if isinstance(topk, int) else tuple(topk)
        kept = tuple(k for k in given if k <= num_classes) or (1, )
        if kept != given:
            node['topk'] = kept
            found.setdefault((kept, given), []).append(where)
    for (kept, given), places in found.items():
        _warn(f"{', '.join(places)}: topk is {kept} instead of {given}, because model.head.num_classes is "
              f'{num_classes}')


def _warn(text: str) -> None:
    print_log(text, 'current', logging.WARNING)


Found = Tuple[str, Dict[str, Any], Any]


def _metrics(cfg: Config) -> Iterator[Found]:
    """MMPretrain's accuracies in the evaluators; a config's two evaluators may be the same object."""
    for split in ('val', 'test'):
        for where, node in walk(cfg.get(f'{split}_evaluator'), f'{split}_evaluator'):
            kind = class_of(node, METRICS, scope_of(cfg))
            if any(base.__name__ == 'Accuracy' and base.__module__.startswith('mmpretrain.')
                   for base in getattr(kind, '__mro__', ())):
                yield where, node, (1, )


def _logged_accuracies(cfg: Config, head: Dict[str, Any]) -> List[Found]:
    """The head, if it logs the accuracies of training batches."""
    kind = class_of(head, MODELS, scope_of(cfg))
    if not head.get('cal_acc') or not any(base.__name__ == 'ClsHead' for base in getattr(kind, '__mro__', ())):
        return []
    default = inspect.signature(kind).parameters.get('topk')
    return [('model.head', head, (1, ) if default is None else default.default)]
