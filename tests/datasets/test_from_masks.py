import json
import os

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmdet.registry import TRANSFORMS
from mmengine.registry import DefaultScope
from pycocotools.coco import COCO

from mmfasternet.datasets.coco_file import check_coco_content, read_coco_file
from mmfasternet.datasets.from_masks import MasksToCoco
from mmfasternet.errors import ArgumentError, DataError

SIZE = (48, 64)


def ellipse(x, y, a, b):
    return cv2.ellipse(np.zeros(SIZE, np.uint8), (x, y), (a, b), 30, 0, 360, 1, -1) > 0


RING = ellipse(45, 30, 14, 12) & ~ellipse(45, 30, 8, 7)
DOT = ellipse(3, 44, 0, 0)
TWO_PIECES = ellipse(10, 10, 6, 4) | ellipse(30, 8, 3, 5)
OBJECTS = [TWO_PIECES, RING, DOT]
LABELS = sum(number * mask for number, mask in zip((3, 700, 701), OBJECTS)).astype(np.uint16)
OVERLAPPING = [ellipse(20, 20, 12, 8), ellipse(26, 24, 12, 8)]


@pytest.fixture
def folder(tmp_path):
    """Images ``a``, a label map, and ``b``, two masks that overlap."""
    rng = np.random.default_rng(0)
    for name in 'ab':
        cv2.imwrite(str(tmp_path / f'{name}.png'), rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    cv2.imwrite(str(tmp_path / 'a_labels.png'), LABELS)
    for number, mask in enumerate(OVERLAPPING):
        cv2.imwrite(str(tmp_path / f'b_{number}.png'), mask * np.uint8(255))
    return tmp_path


def read(coco, path):
    coco.write(path)
    return COCO(str(path))


def masks_of(coco):
    return [coco.annToMask(row) > 0 for row in coco.loadAnns(sorted(coco.getAnnIds()))]


@pytest.mark.parametrize('segmentation', ['polygon', 'rle'])
def test_a_file_holds_the_masks(folder, segmentation):
    coco = MasksToCoco(['cell'], segmentation=segmentation)
    coco.add(folder / 'a.png', folder / 'a_labels.png')
    coco.add(str(folder / 'b.png'), folder.glob('b_*.png'))
    found = read(coco, folder / 'new' / 'train.json')
    assert found.loadImgs(found.getImgIds()) == [dict(id=1, file_name='a.png', height=48, width=64),
                                                 dict(id=2, file_name='b.png', height=48, width=64)]
    assert found.loadCats(found.getCatIds()) == [dict(id=1, name='cell')]
    rows = found.loadAnns(sorted(found.getAnnIds()))
    assert [(row['id'], row['image_id'], row['category_id'], row['iscrowd']) for row in rows] == [
        (number, 1 if number < 4 else 2, 1, 0) for number in range(1, 6)]
    either = [OVERLAPPING, OVERLAPPING[::-1]]  # glob's order is the disk's
    assert any(np.array_equal(masks_of(found), [*OBJECTS, *order]) for order in either)
    for row, mask in zip(rows, masks_of(found)):
        ys, xs = np.nonzero(mask)
        assert row['area'] == mask.sum()
        assert row['bbox'] == [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
    encoded = [isinstance(row['segmentation'], dict) for row in rows]
    assert encoded == ([False, True, False, False, False] if segmentation == 'polygon' else [True] * 5)
    assert segmentation == 'rle' or len(rows[0]['segmentation']) == 2


def test_mmdetection_and_our_check_read_it(folder):
    coco = MasksToCoco(['cell'])
    coco.add(folder / 'a.png', folder / 'a_labels.png')
    path = str(coco.write(folder / 'train.json'))
    check_coco_content(path, read_coco_file(path), ['cell'], True, True)
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = CocoDataset(ann_file=path, data_prefix=dict(img=str(folder)), metainfo=dict(classes=('cell', )),
                              pipeline=[])
        load = TRANSFORMS.build(dict(type='LoadAnnotations', with_bbox=True, with_mask=True))
        results = load(dict(dataset.get_data_info(0), ori_shape=SIZE))
    np.testing.assert_array_equal(results['gt_masks'].masks > 0, OBJECTS)


def test_holes_are_filled_or_kept_by_the_overlap(folder):
    filled = ellipse(45, 30, 14, 12)
    share = RING.sum() / filled.sum()
    assert 0.3 < share < 0.9
    for least, expected in ((share - 0.01, filled), (share + 0.01, RING)):
        coco = MasksToCoco(min_overlap=least)
        coco.add(folder / 'a.png', [RING])
        assert coco.overlaps == pytest.approx([share] if expected is filled else [])
        np.testing.assert_array_equal(masks_of(read(coco, folder / 'train.json'))[0], expected)


def test_the_summary_counts(folder):
    coco = MasksToCoco(min_overlap=0)
    coco.add(folder / 'a.png', folder / 'a_labels.png')
    share = RING.sum() / ellipse(45, 30, 14, 12).sum()
    assert coco.summary() == (f'1 images, 3 objects; 3 as polygons, whose IoU with the masks is {(2 + share) / 3:.4f} '
                              f'on average and {share:.4f} at least')
    coco = MasksToCoco(segmentation='rle')
    coco.add(folder / 'a.png', folder / 'a_labels.png')
    assert coco.summary() == '1 images, 3 objects; 3 as run-length encodings'


def test_several_classes(folder):
    coco = MasksToCoco(['cell', 'debris'])
    coco.add(folder / 'a.png', {'debris': [DOT], 'cell': np.where(LABELS == 701, 0, LABELS)})
    coco.add(folder / 'b.png', {})
    found = read(coco, folder / 'train.json')
    rows = found.loadAnns(sorted(found.getAnnIds()))
    assert [row['category_id'] for row in rows] == [2, 1, 1]
    np.testing.assert_array_equal(masks_of(found), [DOT, TWO_PIECES, RING])
    assert len(found.getImgIds()) == 2  # one without objects


def test_values_may_hold_the_class(folder):
    """As in Cityscapes: 26001 is the second car, 26 cars that can't be told apart, 7 the road, 27000 a truck."""
    labels = np.full(SIZE, 7, np.uint16)
    for value, mask in ((26001, TWO_PIECES), (26, RING), (24000, DOT), (27000, ellipse(10, 30, 3, 3))):
        labels[mask] = value
    cv2.imwrite(str(folder / 'a_instanceIds.png'), labels)
    coco = MasksToCoco({24: 'person', 26: 'car'}, label_divisor=1000)
    coco.add(folder / 'a.png', folder / 'a_instanceIds.png')
    found = read(coco, folder / 'train.json')
    rows = found.loadAnns(sorted(found.getAnnIds()))
    assert [(row['category_id'], row['iscrowd']) for row in rows] == [(26, 1), (24, 0), (26, 0)]
    np.testing.assert_array_equal(masks_of(found), [RING, DOT, TWO_PIECES])
    assert isinstance(rows[0]['segmentation'], dict) and found.getCatIds() == [24, 26]


def test_file_names_start_from_the_root(folder):
    for name in ('x', 'y'):
        (folder / name).mkdir()
        os.link(folder / 'a.png', folder / name / 'a.png')
    coco = MasksToCoco(root=folder)
    coco.add(folder / 'x' / 'a.png', [])
    coco.add(folder / 'x' / '..' / 'y' / 'a.png', [])
    assert [image['file_name'] for image in coco.content['images']] == ['x/a.png', 'y/a.png']
    with pytest.raises(DataError, match="the second one named 'x/a.png'. Add it once"):
        coco.add(folder / 'x' / 'a.png', [])
    with pytest.raises(DataError, match='is not in the folder'):
        MasksToCoco(root=folder / 'x').add(folder / 'a.png', [])
    (folder / 'root').mkdir()
    (folder / 'root' / 'linked').symlink_to(folder / 'x')  # a folder in the root, as to another disk
    (folder / 'link').symlink_to(folder / 'root')  # the root itself
    for root, image in (('root', 'root/linked'), ('link', 'link/linked'), ('link/linked', 'x')):
        coco = MasksToCoco(root=folder / root)
        coco.add(folder / image / 'a.png', [])
        assert coco.content['images'][0]['file_name'] == ('linked/a.png' if root != 'link/linked' else 'a.png')
    coco = MasksToCoco()
    coco.add(folder / 'x' / 'a.png', [])
    with pytest.raises(DataError, match="the second one named 'a.png'. Set root"):
        coco.add(folder / 'y' / 'a.png', [])


def test_empty_masks_are_named(folder):
    cv2.imwrite(str(folder / 'empty.png'), np.zeros(SIZE, np.uint8))
    coco = MasksToCoco()
    coco.add(folder / 'b.png', [folder / 'b_0.png', folder / 'empty.png', np.zeros(SIZE)])
    assert coco.empty_masks == [f"mask '{folder}/empty.png'", f"mask of image '{folder}/b.png'"]
    assert len(coco.content['annotations']) == 1


@pytest.mark.parametrize('masks, part', [
    (np.zeros((48, 63), int), "label map of image '{}/b.png' has the shape 48 x 63"),
    ([OVERLAPPING[0], np.zeros((64, 48))], "mask of image '{}/b.png' has the shape 64 x 48"),
    ([OVERLAPPING[0], 'gone.png'], "mask 'gone.png' does not exist"),
    ('gone.png', "label map 'gone.png' does not exist"),
    (np.full(SIZE, 0.5), 'holds fractions'),
    (np.full(SIZE, -1), 'holds values below 0, such as -1'),
    ({'cat': []}, "masks of the class 'cat', which is not one of object"),
])
def test_a_bad_image_is_named_and_nothing_of_it_is_added(folder, masks, part):
    coco = MasksToCoco()
    coco.add(folder / 'a.png', folder / 'a_labels.png')
    before = json.dumps(coco.content)
    with pytest.raises(DataError) as error:
        coco.add(folder / 'b.png', masks)
    assert part.format(folder) in str(error.value) and '\n' not in str(error.value)
    assert json.dumps(coco.content) == before and len(coco.overlaps) == 2 and not coco.empty_masks
    coco.add(folder / 'b.png', [])


def test_what_is_not_said_is_asked_for(folder):
    with pytest.raises(DataError, match="don't say which of the 2 classes they belong to"):
        MasksToCoco(['a', 'b']).add(folder / 'a.png', folder / 'a_labels.png')
    with pytest.raises(DataError, match='there is no image to write'):
        MasksToCoco().write(folder / 'train.json')
    assert not (folder / 'train.json').exists()
    for arguments in (dict(classes='cell'), dict(classes=[]), dict(classes=['cell', 'cell']), dict(label_divisor=1),
                      dict(segmentation='mask'), dict(min_overlap=1.1)):
        with pytest.raises(ArgumentError, match=next(iter(arguments))):
            MasksToCoco(**arguments)
