"""Errors of a data pipeline that name the image."""

from typing import Any, Callable, Dict, Iterator

from mmfasternet.errors import DataError, UserError, kind_and_reason


class NamingPipeline:
    """A dataset's pipeline whose errors name the image.

    Args:
        pipeline: The pipeline itself.

    Raises:
        DataError: Instead of any error that the pipeline raises.
    """

    def __init__(self, pipeline: Callable[[Dict[str, Any]], Any]) -> None:
        self._pipeline = pipeline

    def __call__(self, data: Dict[str, Any]) -> Any:
        # Transforms write into what they get.
        path, shape = data.get('img_path'), (data.get('height'), data.get('width'))
        try:
            return self._pipeline(data)
        except (UserError, MemoryError):
            raise
        except Exception as error:
            size = f', {shape[1]} x {shape[0]} px in the annotation file' if all(shape) else ''
            mixing = [type(transform).__name__ for transform in getattr(self._pipeline, 'transforms', [])
                      if hasattr(transform, 'results_cache')]  # as RTMDet's mosaic
            others = f', on what {" or ".join(mixing)} mixes it with,' if mixing else ''
            raise DataError(f"image '{path}'{size}: the pipeline fails on it{others} or on its annotations "
                            f'({kind_and_reason(error)}). Fix them, or remove the image from the annotation '
                            'file') from error

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == '_pipeline':
            raise AttributeError(name)  # while it is unpickled, there is none yet
        return getattr(self._pipeline, name)


def name_images_in_errors(dataset: Any) -> None:
    """Make a dataset, and the datasets it wraps, name the image that the pipeline fails on."""
    for inner in _unwrapped(dataset):
        pipeline = getattr(inner, 'pipeline', None)
        if callable(pipeline) and not isinstance(pipeline, NamingPipeline):
            inner.pipeline = NamingPipeline(pipeline)


def _unwrapped(dataset: Any) -> Iterator[Any]:
    inner = [*getattr(dataset, 'datasets', []), getattr(dataset, 'dataset', None)]
    found = [child for child in inner if child is not None]
    for child in found:
        yield from _unwrapped(child)
    if not found:
        yield dataset
