"""Private names of other libraries."""
from typing import Any, List, Optional


def loops_of(runner: Any) -> List[Any]:
    from mmengine.runner import BaseLoop
    return [loop for loop in (runner._train_loop, runner._val_loop, runner._test_loop) if isinstance(loop, BaseLoop)]


def train_loop_of(runner: Any) -> Optional[Any]:
    from mmengine.runner import BaseLoop
    return runner._train_loop if isinstance(runner._train_loop, BaseLoop) else None


def accumulative_counts(optim_wrapper: Any) -> int:
    return getattr(optim_wrapper, '_accumulative_counts', 1)


def count_batch(optim_wrapper: Any) -> None:
    optim_wrapper._inner_count += 1


def is_last_of_step(optim_wrapper: Any) -> bool:
    return optim_wrapper._accumulative_counts > 1 and optim_wrapper.should_update()


def det_inferencer(cfg: Any, checkpoint: str, device: str, check: Any) -> Any:
    """MMDetection's inferencer; ``check(model, content)`` is called before the weights are loaded."""
    from mmdet.apis import DetInferencer

    class CheckedInferencer(DetInferencer):

        def _load_weights_to_model(self, model: Any, checkpoint: Any, cfg: Any) -> None:
            check(model, checkpoint)
            super()._load_weights_to_model(model, checkpoint, cfg)

    return CheckedInferencer(cfg, checkpoint, device=device)


def image_classification_inferencer(cfg: Any, model: Any, dataset_meta: Any) -> Any:
    """MMPretrain's inferencer of a model that is built and loaded."""
    from mmpretrain.apis import ImageClassificationInferencer
    model._config, model._dataset_meta, model._metainfo = cfg, dataset_meta, None
    return ImageClassificationInferencer(model)
