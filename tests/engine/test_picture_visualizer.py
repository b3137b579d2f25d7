"""Colours that differ, lines at the objects, and pictures that are large enough."""

import itertools

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.structures import InstanceData

from mmfasternet.engine.picture_visualizer import PALETTE, PictureVisualizer, class_colors

COCO = CocoDataset.METAINFO


def visualizer(classes, palette=None):
    made = PictureVisualizer()
    made.dataset_meta = dict(classes=classes, palette=palette)
    drawn = []
    made.add_image = lambda name, image, step=0: drawn.append(image)
    return made, drawn


def instances(boxes, labels, masks=None, **more):
    given = dict(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.tensor(labels), **more)
    return InstanceData(**given, **({} if masks is None else dict(masks=masks)))


def test_colours_of_a_palette_differ():
    for one, other in itertools.combinations(PALETTE, 2):
        assert np.abs(np.subtract(one, other)).max() > 40, (one, other)


@pytest.mark.parametrize('palette', [None, 'random', COCO['palette'], tuple(COCO['palette'])])
def test_classes_without_colours_of_their_own_get_ours(palette):
    assert class_colors(('a', 'b', 'c', 'd'), palette, 2) == PALETTE
    assert class_colors(None, palette, 3) == PALETTE


def test_colours_of_the_data_set_stay():
    own = [(1, 2, 3), (4, 5, 6)]
    assert class_colors(('a', 'b'), own, 1) == own == class_colors(('a', 'b'), tuple(own), 2)
    assert class_colors(COCO['classes'], COCO['palette'], 1) == COCO['palette']
    assert len(class_colors([str(number) for number in range(20)], None, 1)) == 20
    many = [str(number) for number in range(100)]  # more than the 80 colours of COCO, which its datasets keep
    assert len(class_colors(many, COCO['palette'], 1)) == 100


@pytest.mark.parametrize('kind', ['tensor', 'array', 'bitmaps', 'polygons'])
def test_an_outline_lies_on_the_border_of_its_mask(kind):
    mask = np.zeros((1, 100, 100), bool)
    mask[0, 20:60, 30:80] = True
    masks = dict(tensor=torch.tensor(mask), array=mask, bitmaps=BitmapMasks(mask.astype(np.uint8), 100, 100),
                 polygons=PolygonMasks([[np.array([30., 20, 80, 20, 80, 60, 30, 60])]], 100, 100))[kind]
    made, drawn = visualizer(('a', 'b'))
    sample = DetDataSample(gt_instances=instances([[0, 0, 1, 1]], [1], masks))
    made.add_datasample('', np.full((100, 100, 3), 255, np.uint8), sample, draw_pred=False)
    image, = drawn
    assert image.shape == (600, 600, 3)
    changed = (image < 250).any(2)
    changed[:30, :80] = False  # the box, and the text at its corner
    rows, columns = np.nonzero(changed)
    assert np.allclose([rows.min(), rows.max(), columns.min(), columns.max()], [120, 360, 180, 480], atol=9)
    assert not changed[150:330, 210:450].any()
    middle = image[115:128, 300].astype(int)
    assert np.abs(middle - PALETTE[1]).sum(1).min() < 60


@pytest.mark.parametrize('boxes', [dict(), dict(bboxes=torch.zeros(2, 4))])
def test_labels_of_objects_without_boxes_are_at_their_masks(boxes):
    """SOLO's boxes are zeros."""
    masks = np.zeros((2, 100, 100), bool)
    masks[0, 20:30, 30:40] = masks[1, 70:80, 50:60] = True
    made, _ = visualizer(('a', 'b'))
    places = []
    made.draw_texts = lambda text, position, **kwargs: places.append((text, *position))
    made.add_datasample('', np.zeros((100, 100, 3), np.uint8), DetDataSample(gt_instances=InstanceData(
        labels=torch.tensor([0, 1]), masks=masks, **boxes)), draw_pred=False)
    assert places == [('a', 180, 120), ('b', 300, 420)]


def test_truth_and_predictions_are_side_by_side_and_scores_decide():
    made, drawn = visualizer(('a', 'b', 'c', 'd'))
    sample = DetDataSample(gt_instances=instances([[10, 10, 40, 40]], [0]), pred_instances=instances(
        [[50, 50, 90, 90], [5, 5, 20, 20]], [2, 3], scores=torch.tensor([.9, .1])))
    made.add_datasample('', np.zeros((100, 120, 3), np.uint8), sample, pred_score_thr=.5)
    truth, found = np.split(drawn[0], 2, axis=1)
    assert truth.shape == found.shape == (500, 600, 3)

    def pixels(image, label):  # of this hue, however dark
        lengths = np.linalg.norm(image, axis=2) * np.linalg.norm(PALETTE[label])
        return ((image @ np.array(PALETTE[label]) > .995 * lengths) & (lengths > 1e4)).sum()

    assert pixels(truth, 0) > 300 and pixels(found, 2) > 300 and pixels(found, 3) == pixels(found, 0) == 0


@pytest.mark.parametrize('shape, times', [((640, 480), 1), ((427, 640), 1), ((320, 320), 2), ((96, 60), 6)])
def test_small_images_are_enlarged(shape, times):
    made, drawn = visualizer(('a', ))
    made.add_datasample('', np.zeros((*shape, 3), np.uint8), DetDataSample(pred_instances=instances(
        [], [], scores=torch.zeros(0))), draw_gt=False)
    assert drawn[0].shape == (shape[0] * times, shape[1] * times, 3)
    made.enlarges = False
    made.add_datasample('', np.zeros((*shape, 3), np.uint8), DetDataSample(), draw_gt=False)
    assert drawn[1].shape == (*shape, 3)
