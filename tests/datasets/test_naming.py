"""Errors of pipelines name the image, also where MMDetection mixes several."""

import pickle

import pytest
from mmdet.datasets import CocoDataset, MultiImageMixDataset
from mmdet.datasets.transforms import CachedMosaic, LoadAnnotations, Mosaic
from mmengine.dataset import ConcatDataset, RepeatDataset

from mmfasternet.datasets.naming import name_images_in_errors
from mmfasternet.errors import DataError

SIDE = 96
LOADING = [dict(type='LoadImageFromFile'), dict(type=LoadAnnotations, with_bbox=True)]


class FailingFor:
    """A transform that fails for images of a name."""

    def __init__(self, name):
        self.name = name

    def __call__(self, results):
        if results['img_path'].endswith(self.name):
            raise ZeroDivisionError('too small')
        return results


@pytest.fixture
def make(shapes):
    def make(*more):
        return CocoDataset(ann_file=str(shapes / 'annotations' / 'instances_val.json'),
                           data_prefix=dict(img=str(shapes / 'val')), pipeline=[*LOADING, *more],
                           metainfo=dict(classes=('circle', 'square', 'triangle', 'star')), test_mode=True)
    return make


def name_of(dataset, index):
    return dataset.get_data_info(index)['img_path'].rpartition('/')[2]


@pytest.mark.parametrize('wrap', [lambda dataset: dataset, lambda dataset: RepeatDataset(dataset, 2),
                                  lambda dataset: ConcatDataset([dataset])])
def test_an_image_is_named(make, wrap):
    name = name_of(make(), 1)
    dataset = wrap(make(dict(type=FailingFor, name=name)))
    name_images_in_errors(dataset)
    name_images_in_errors(dataset)  # each epoch
    assert dataset[0]['img'].shape == (SIDE, SIDE, 3)
    size = f'{SIDE} x {SIDE} px in the annotation file'
    with pytest.raises(DataError, match=rf"^image '\S+/{name}', {size}: the pipeline fails on it or on its annotations "
                                        r'\(ZeroDivisionError: too small\)\. Fix'):
        pickle.loads(pickle.dumps(dataset))[1]


def test_an_image_that_is_mixed_with_others_is_not_accused_alone(make):
    """RTMDet's mosaic keeps images in a cache, and mixes four of them."""
    dataset = make(dict(type=CachedMosaic, img_scale=(SIDE, SIDE), center_ratio_range='none'))
    name_images_in_errors(dataset)
    for index in range(4):  # fills the cache
        assert dataset[index]['img'].shape == (SIDE, SIDE, 3)
    with pytest.raises(DataError, match=rf"^image '\S+/{name_of(dataset, 4)}', .*: the pipeline fails on it, on what "
                                        r'CachedMosaic mixes it with, or on its annotations \(TypeError: '):
        dataset[4]


def test_datasets_that_mix_images_are_left_as_they_are(make):
    """Their list of transforms is read, and changed, by hooks."""
    dataset = MultiImageMixDataset(make(), [dict(type=Mosaic, img_scale=(SIDE, SIDE))])
    name_images_in_errors(dataset)
    assert isinstance(dataset.pipeline[0], Mosaic) and dataset[0]['img'].shape == (2 * SIDE, 2 * SIDE, 3)
    dataset.dataset.pipeline.transforms.append(FailingFor(name_of(dataset, 1)))
    with pytest.raises(DataError, match=rf"^image '\S+/{name_of(dataset, 1)}'.*ZeroDivisionError: too small"):
        dataset[1]
