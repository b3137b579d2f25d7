import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmfasternet.models.tta import InstanceTTAModel

SIZE = 20


@pytest.fixture
def model():
    from mmengine.model import BaseModel

    class Nothing(BaseModel):

        def forward(self, *args, **kwargs):
            return []

    return InstanceTTAModel(module=Nothing(), tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=10))


def view(boxes, scores, labels, flip=None):
    """Predictions seen in a view; the mask of a box is the box."""
    boxes = torch.tensor(boxes, dtype=torch.float).reshape(-1, 4)
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist()):
        mask[y0:y1, x0:x1] = True
    sample = DetDataSample(
        metainfo=dict(ori_shape=(SIZE, SIZE), flip=flip is not None, flip_direction=flip))
    sample.pred_instances = InstanceData(
        bboxes=boxes, scores=torch.tensor(scores), labels=torch.tensor(labels, dtype=torch.long), masks=masks)
    return sample


@pytest.mark.parametrize('flip, mirrored', [('horizontal', [12, 2, 18, 10]), ('vertical', [2, 10, 8, 18]),
                                            ('diagonal', [12, 10, 18, 18])])
def test_a_view_is_flipped_back(model, flip, mirrored):
    plain, flipped = view([[2, 2, 8, 10]], [.6], [1]), view([mirrored], [.9], [1], flip)
    merged = model.merge_preds([[plain, flipped]])[0].pred_instances
    assert merged.bboxes.tolist() == [[2, 2, 8, 10]] and merged.scores.tolist() == [pytest.approx(.9)]
    assert torch.equal(merged.masks, view([[2, 2, 8, 10]], [.6], [1]).pred_instances.masks)


def test_masks_are_voted_for_within_a_class(model):
    views = [
        view([[0, 0, 10, 10]], [.5], [0]),
        view([[0, 0, 10, 9]], [.5], [0]),
        view([[0, 0, 10, 9]], [.4], [0]),
        view([[0, 0, 10, 10]], [.8], [1]),
    ]
    merged = model.merge_preds([views])[0].pred_instances
    assert merged.labels.tolist() == [1, 0]
    assert merged.masks.flatten(1).sum(1).tolist() == [100, 90]  # 0.9 of 1.4 say that the last row is not in it


def test_at_most_max_per_img_and_none_at_all(model):
    boxes = [[i % 5 * 4, i // 5 * 4, i % 5 * 4 + 3, i // 5 * 4 + 3] for i in range(15)]
    merged = model.merge_preds([[view(boxes, [.5] * 15, [0] * 15)]])[0].pred_instances
    assert len(merged) == 10 and len(merged.masks) == 10
    assert len(model.merge_preds([[view([], [], []), view([], [], [], 'horizontal')]])[0].pred_instances) == 0


