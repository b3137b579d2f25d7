"""Suppression's rule, by lists of objects that keep it and that break it."""

import pytest
import torch
from mmengine.config import ConfigDict

from mmfasternet.deploy.export.boxes import counterparts, grouped_nms

CFG = ConfigDict(nms=dict(iou_threshold=0.5), max_per_img=3)
# Of class 0 the second overlaps the first by 0.6, and the fourth is apart; the third and fifth are of class 1.
BOXES = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 9], [20, 20, 30, 30], [40, 40, 50, 50]])
SCORES = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
LABELS = torch.tensor([0, 0, 1, 0, 1])
CANDIDATES = (BOXES, SCORES, LABELS)
ALL = torch.full((5, ), True)


def objects(*indices):
    return tuple(x[list(indices)] for x in CANDIDATES)


def changed(kind, row, value):
    result = [x.clone() for x in objects(0, 2, 3)]
    result[kind][row] = value
    return result


def test_what_suppression_leaves():
    keep = grouped_nms(*CANDIDATES, CFG.nms)
    assert keep.tolist() == [0, 2, 3, 4]
    found = counterparts(objects(*keep.tolist()[:3]), CANDIDATES, ALL, CFG)
    assert all(map(torch.equal, found, objects(0, 2, 3)))


@pytest.mark.parametrize('found', [objects(2, 3), objects(0, 2, 4), objects(0, 1, 2), objects(1, 2, 3), objects(0, 2),
                                   objects(), objects(0, 2, 3, 4), objects(0, 2, 2)], ids=[
    'the best is missing', 'one before the last is missing', 'one overlaps a better one', 'a worse one stays',
    'too few', 'none', 'too many', 'twice'])
def test_what_it_does_not_leave(found):
    assert counterparts(found, CANDIDATES, ALL, CFG) is None


@pytest.mark.parametrize('score', [float('nan'), 2.])
def test_scores_that_no_candidate_has(score):
    assert counterparts((BOXES[:3], torch.full((3, ), score), LABELS[:3]), CANDIDATES, ALL, CFG) is None


def test_no_candidates():
    assert counterparts(objects(0), objects(), ALL[:0], CFG) is None


def test_near_ties_come_in_any_order():
    scores = torch.tensor([0.9, 0.8, 0.7, 0.7 + 1e-7, 0.5])
    found = counterparts(objects(0, 2, 3), (BOXES, scores, LABELS), ALL, CFG)
    assert found[2].tolist() == [0, 1, 0]


def test_either_of_two_with_nearly_the_same_score_may_stay():
    scores = torch.tensor([0.9, 0.9 - 1e-7, 0.7, 0.6, 0.5])
    for first in (0, 1):
        assert counterparts((BOXES[[first, 2, 3]], scores[[first, 2, 3]], LABELS[[first, 2, 3]]),
                            (BOXES, scores, LABELS), ALL, CFG) is not None


@pytest.mark.parametrize('threshold', [0.6 - 1e-5, 0.6 + 1e-5])
def test_an_overlap_of_nearly_the_threshold_may_go_or_stay(threshold):
    cfg = ConfigDict(nms=dict(iou_threshold=threshold), max_per_img=10)
    for found in (objects(0, 2, 3, 4), objects(0, 1, 2, 3, 4)):
        assert counterparts(found, CANDIDATES, ALL, cfg) is not None


@pytest.mark.parametrize('kind, row, value', [(0, 1, 5.), (1, 0, 0.95)], ids=['a box', 'a score'])
def test_what_has_moved_is_seen_by_its_counterpart(kind, row, value):
    found = changed(kind, row, value)
    expected = counterparts(found, CANDIDATES, ALL, CFG) or objects(0, 2, 3)
    assert not torch.allclose(found[kind], expected[kind], rtol=1e-3)


def test_another_label_is_another_object():
    expected = counterparts(changed(2, 2, 1), CANDIDATES, ALL, CFG)
    assert expected is None


def test_what_is_near_a_threshold_may_be_there_or_not():
    cfg = ConfigDict(nms=dict(iou_threshold=0.5), max_per_img=10)
    for found in (objects(0, 2, 3), objects(0, 2, 3, 4)):
        assert counterparts(found, CANDIDATES, torch.arange(5) < 4, cfg) is not None
    assert counterparts(objects(0, 2, 3), CANDIDATES, ALL, cfg) is None
