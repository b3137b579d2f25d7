"""Annotation files that are mutated at random: trained on and evaluated, or refused by a line that names the place."""

import copy
import json
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from pycocotools import mask as mask_utils

from mmfasternet.datasets import coco_checks
from mmfasternet.datasets.shapes import make_shapes_coco
from mmfasternet.engine.config import load_config
from mmfasternet.engine.train_test import train
from mmfasternet.errors import DataError
from tests.conftest import SHAPES_CONFIG

MUTATIONS = 500
SIZE = 64
ARCH = dict(embed_channels=8, depths=(1, 1, 1, 1))
FIELDS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd', 'ignore', 'segmentation'),
    'categories': ('id', 'name'),
}
# An entry, a list that is missing, a value that two share, an image, how many objects and why, or a place in the text.
PLACE = re.compile(r"\w+\[\d+\]|list '\w+'|with the (id|name) |has no category '|another order \(|image '|"
                   r"none of its \d+ objects|no object of the classes|the id|JSON: .*(line \d+ column \d+|byte \d+)")
DROP = object()
ANY = (None, True, 0, -1, 0.5, 10 ** 9, 2 ** 70, 10 ** 400, 1e300, float('nan'), float('inf'), '', '1', '\0', [], [[]],
       {})
IDS = (0, -7, 5, 2 ** 40, '0', '7', 'seven')
# Values that a field may well have in a stranger's file, right or wrong.
LIKELY = {
    'id': IDS, 'image_id': IDS, 'category_id': IDS, 'name': ('cat', 'circle ', 'Circle', 'circle'),
    'file_name': ('000000.png', './000001.png', 'train/000000.png', 'gone.png', '../train/000000.png'),
    'height': (64., 30, 400, 10 ** 5, '64'), 'width': (64., 30, 400, 10 ** 5, '64'),
    'area': (0, -5, 1e10, 0.5, '700'), 'iscrowd': (0, 1, None, False, 1., '0', 2), 'ignore': (0, 1, None, False, '0'),
    'bbox': ([0, 0, 0, 0], [-5, -5, 9, 9], [5, 5, -9, -9], [60, 60, 20, 20], [100, 100, 9, 9], [1, 1, .5, .5],
             [1, 1, 1e5, 1e5], ['1', '1', '9', '9'], [1, 1, 9], [[1, 1], [9, 9]]),
    'segmentation': ([], [[]], [[1, 1, 9, 9]], [[1, 1, 9, 1, 9]], [[1, 1, 9, 1, 9, 9]],
                     [[1, 1, 9, 9], [1, 1, 9, 1, 9, 9]], [[1, 1], [9, 1], [9, 9]],
                     [[[1, 1], [9, 1], [9, 9]]], [[-50, -50, 500, -50, 500, 500]], [[5] * 6],
                     [['1'] * 6], 'RLE', dict(size=[9, 9], counts=[81]), dict(size=[SIZE, SIZE], counts=[1, 2]),
                     dict(size=[SIZE, SIZE], counts=[SIZE * SIZE]), dict(size=[SIZE, SIZE], counts=[0, SIZE * SIZE]),
                     dict(size=[SIZE, SIZE], counts='PP4'), dict(size=[SIZE, SIZE], counts='oooo'), dict(counts=[4])),
}


def nested(value):
    return [value]


def negative(value):
    if isinstance(value, list):
        return [negative(item) for item in value]
    return -value if isinstance(value, (int, float)) else value


def as_text(value):
    return str(value)


def times_a_million(value):
    if isinstance(value, list):
        return [times_a_million(item) for item in value]
    return value * 10 ** 6 if isinstance(value, (int, float)) else value


def first_half(value):
    return value[:len(value) // 2] if isinstance(value, (list, str)) else value


CHANGES = (nested, negative, as_text, times_a_million, first_half)


def mutate_field(draw, content):
    key = draw(st.sampled_from(list(FIELDS)))
    field = draw(st.sampled_from(FIELDS[key]))
    rows = content[key]
    # One entry, or all of them: a script that writes something wrong does it everywhere.
    chosen = rows if draw(st.booleans()) else [rows[draw(st.integers(0, len(rows) - 1))]]
    likely = draw(st.booleans()) or draw(st.booleans())
    change = draw(st.sampled_from(LIKELY[field] if likely else (*CHANGES, DROP, *ANY)))
    for row in chosen:
        if not isinstance(row, dict):
            continue
        if change is DROP:
            row.pop(field, None)
        elif callable(change):
            row[field] = change(row.get(field))
        else:
            row[field] = copy.deepcopy(change)


def mutate_rows(draw, content):
    key = draw(st.sampled_from(list(FIELDS)))
    rows = content[key]
    index = draw(st.integers(0, len(rows) - 1))
    what = draw(st.sampled_from(('remove', 'repeat', 'replace', 'empty', 'reverse', 'nest', 'no section')))
    if what == 'remove':
        del rows[index]
    elif what == 'repeat':
        rows.append(copy.deepcopy(rows[index]))
    elif what == 'replace':
        rows[index] = copy.deepcopy(draw(st.sampled_from(ANY)))
    elif what == 'empty':
        content[key] = []
    elif what == 'reverse':
        rows.reverse()
    elif what == 'nest':
        content[key] = [rows]
    else:
        content[key] = copy.deepcopy(draw(st.sampled_from(ANY)))


def mutate_bytes(draw, text):
    how = draw(st.sampled_from(('utf-8-sig', 'utf-16', 'cut', 'twice')))
    return {'cut': text[:-9], 'twice': text * 2}.get(how, text).encode(how if how.startswith('utf') else 'utf-8')


@st.composite
def mutated(draw, original):
    content = copy.deepcopy(original)
    kind = draw(st.sampled_from((mutate_field, ) * 4 + (mutate_rows, mutate_bytes)))
    if kind is mutate_bytes:
        return mutate_bytes(draw, json.dumps(content))
    kind(draw, content)
    if draw(st.integers(0, 3)) == 3 and all(isinstance(content[key], list) and content[key] for key in FIELDS):
        mutate_field(draw, content)
    return json.dumps(content).encode()


def tiny_config(root, ann_file, work_dir):
    cfg = load_config(str(SHAPES_CONFIG), work_dir=str(work_dir))
    channels, sizes = 8, [8, 16, 32, 64]
    cfg.merge_from_dict({
        'model.neck': dict(in_channels=sizes, out_channels=channels),
        'model.rpn_head': dict(in_channels=channels, feat_channels=channels),
        'model.roi_head.bbox_roi_extractor.out_channels': channels,
        'model.roi_head.mask_roi_extractor.out_channels': channels,
        'model.roi_head.bbox_head': dict(in_channels=channels, conv_out_channels=channels, fc_out_channels=channels),
        'model.roi_head.mask_head': dict(in_channels=channels, conv_out_channels=channels),
        'model.test_cfg.rcnn.score_thr': 0.,  # something is to be evaluated
        'model.test_cfg.rcnn.max_per_img': 10,
        'train_cfg.max_epochs': 1,
        'train_cfg.val_interval': 1,
        'param_scheduler': [],
        'default_hooks.checkpoint': None,
        'mmfasternet.omit': ['CurvesHook'],  # for time
        'val_evaluator.ann_file': str(ann_file),
    })
    cfg.model.backbone.arch = dict(ARCH)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.batch_size = 2
        loader.dataset.update(data_root=f'{root}/', ann_file=str(ann_file), data_prefix=dict(img='train/'),
                              serialize_data=False)
        for transform in loader.dataset.pipeline:
            if transform.type == 'Resize':
                transform.scale = (SIZE, SIZE)
    return cfg


def original_content(root):
    """Four classes, two images, polygons and both kinds of run-length encodings."""
    content = json.loads((root / 'annotations' / 'instances_train.json').read_text())
    bitmap = np.zeros((SIZE, SIZE), np.uint8)
    bitmap[10:30, 5:40] = 1
    encoded = mask_utils.encode(np.asfortranarray(bitmap))
    box = dict(category_id=content['categories'][0]['id'], iscrowd=0, area=700, bbox=[5, 10, 35, 20])
    for image, segmentation in zip(content['images'], (
            dict(size=[SIZE, SIZE], counts=encoded['counts'].decode()),
            dict(size=[SIZE, SIZE], counts=[SIZE * 5, SIZE * 20, SIZE * (SIZE - 25)]))):
        content['annotations'].append(dict(box, id=100 + image['id'], image_id=image['id'], segmentation=segmentation))
    return content


@pytest.fixture
def fuzz(tmp_path, monkeypatch):
    """Train and evaluate on the bytes of an annotation file; gives how that ended."""
    root = make_shapes_coco(tmp_path / 'data', num_train=2, num_val=1, size=SIZE, seed=1)
    ann_file = tmp_path / 'mutated.json'
    ann_file.write_bytes(b'{}')
    cfg = tiny_config(root, ann_file, tmp_path / 'work')
    warnings = []
    monkeypatch.setattr(coco_checks, 'print_log', lambda line, *args: warnings.append(line))
    # Half of the time is its formatting.
    monkeypatch.setattr(Config, 'pretty_text', property(lambda self: repr(self.to_dict())))

    def outcome(content):
        ann_file.write_bytes(content)
        warnings.clear()
        try:
            runner = train(copy.deepcopy(cfg))
        except DataError as error:
            line = str(error).strip().splitlines()[-1]
            assert 'mutated.json' in line or f"image '{root}" in line, line
            assert re.search(PLACE, line), line
            return 'refused'
        scalars = runner.message_hub.log_scalars
        losses = {key: scalars[f'train/{key}'].current() for key in ('loss_cls', 'loss_bbox', 'loss_mask')}
        assert all(np.isfinite(value) for value in losses.values()), losses
        if not all(value > 0 for value in losses.values()):
            assert warnings, losses
        for metric in ('bbox', 'segm'):
            assert -1 <= scalars[f'val/coco/{metric}_mAP'].current() <= 1
        return 'trained on with a warning' if warnings else 'trained on'

    outcome.original = original_content(root)
    return outcome


def test_the_original_is_trained_on(fuzz):
    assert fuzz(json.dumps(fuzz.original).encode()) == 'trained on'


@pytest.mark.slow
def test_mutations_are_trained_on_or_refused(fuzz):
    outcomes = Counter()

    @settings(max_examples=MUTATIONS, derandomize=True, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))
    @given(mutated(fuzz.original))
    def check(content):
        outcomes[fuzz(content)] += 1

    check()
    print(', '.join(f'{count} {outcome}' for outcome, count in outcomes.most_common()))
    assert sum(outcomes.values()) >= MUTATIONS and min(outcomes.values()) >= MUTATIONS // 20
