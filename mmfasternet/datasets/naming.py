"""Errors of a data pipeline that name the image."""

from typing import Any, Callable, Dict, Iterator

from mmfasternet.errors import DataError, UserError


class NamingPipeline:
    """A dataset's pipeline, or a transform, whose errors name the image, or the images that it mixes.

    Args:
        pipeline: The pipeline itself.

    Raises:
        DataError: Instead of any error that the pipeline raises.
    """

    def __init__(self, pipeline: Callable[[Dict[str, Any]], Any]) -> None:
        self._pipeline = pipeline

    def __call__(self, data: Dict[str, Any]) -> Any:
        # Transforms write into what they get.
        path, *mixed = [each.get('img_path') for each in (data, *data.get('mix_results', []))]
        shape = (data.get('height'), data.get('width'))
        try:
            return self._pipeline(data)
        except (UserError, MemoryError):
            raise
        except Exception as error:
            size = f', {shape[1]} x {shape[0]} px in the annotation file' if all(shape) else ''
            others = f', mixed with {", ".join(map(repr, mixed))}' if mixed else ''
            raise DataError(f"image '{path}'{size}{others}: the pipeline fails on it or on its annotations "
                            f'({kind_and_reason(error)}). Fix them, or remove the image from the annotation '
                            'file') from error

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == '_pipeline':
            raise AttributeError(name)  # while it is unpickled, there is none yet
        return getattr(self._pipeline, name)


def kind_and_reason(error: Exception) -> str:
    """An error's type and the first line of its message."""
    return f'{type(error).__name__}: {(str(error).strip() or type(error).__name__).splitlines()[0]}'


def name_images_in_errors(dataset: Any) -> None:
    """Make a dataset, and the datasets it wraps, name the image that the pipeline fails on."""
    for each in _with_inner(dataset):
        pipeline = getattr(each, 'pipeline', None)
        if isinstance(pipeline, list):  # of MMDetection's MultiImageMixDataset
            each.pipeline = [_naming(transform) for transform in pipeline]
        elif callable(pipeline):
            each.pipeline = _naming(pipeline)


def _naming(pipeline: Callable[[Dict[str, Any]], Any]) -> NamingPipeline:
    return pipeline if isinstance(pipeline, NamingPipeline) else NamingPipeline(pipeline)


def _with_inner(dataset: Any) -> Iterator[Any]:
    yield dataset
    for child in (*getattr(dataset, 'datasets', []), getattr(dataset, 'dataset', None)):
        if child is not None:
            yield from _with_inner(child)
