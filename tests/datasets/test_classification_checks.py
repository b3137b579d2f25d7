"""A classifier's images and labels are looked at before it trains; labels are those that MMPretrain itself gives."""

import json
import shutil

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from mmfasternet.datasets import classification_checks
from mmfasternet.engine.checks import check_data
from mmfasternet.errors import DataError

CLASSES = ('ant', 'bee', 'cat')


@pytest.fixture
def root(tmp_path):
    """Three classes, with two images each in train and one in val."""
    for split, count in (('train', 2), ('val', 1)):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / split / name / f'{index}.jpg')
    return tmp_path


@pytest.fixture
def warnings(monkeypatch):
    texts = []
    monkeypatch.setattr(classification_checks, 'print_log', lambda text, *args: texts.append(text))
    return texts


def config(root, num_classes=3, kind='CustomDataset', **options):
    """A classifier's config; ``options`` are those of its training data."""
    common = dict(data_root=str(root), pipeline=[dict(type='LoadImageFromFile')])
    train = {**dict(common, type=kind, data_prefix='train'), **options}
    head = dict(type='LinearClsHead', num_classes=num_classes, in_channels=8)
    return Config(dict(
        default_scope='mmpretrain',
        model=dict(type='ImageClassifier', head=head),
        train_dataloader=dict(dataset=train),
        val_dataloader=dict(dataset=dict(common, type='CustomDataset', data_prefix='val'))))


def labels_of(cfg):
    """What MMPretrain makes of the training data: a label of each image."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(cfg.train_dataloader.dataset).get_gt_labels().tolist()


def check(cfg, *splits):
    check_data(cfg, splits or ('train', 'val'))


def assert_refused(cfg, *texts, splits=('train', 'val')):
    with pytest.raises(DataError) as caught:
        check(cfg, *splits)
    assert all(text in str(caught.value) for text in texts), caught.value
    assert '\n' not in str(caught.value)


def write_list(root, *lines):
    (root / 'list.txt').write_text('\n'.join(lines))
    return dict(ann_file='list.txt')


def write_json(root, *entries, metainfo=dict(classes=CLASSES)):
    (root / 'list.json').write_text(json.dumps(dict(metainfo=metainfo, data_list=list(entries))))
    return dict(kind='BaseDataset', ann_file='list.json')


def test_good_data_pass(root):
    for cfg in (config(root), config(root, metainfo=dict(classes=CLASSES)),
                config(root, kind='ImageNet', data_prefix='', split='train', metainfo=dict(classes=CLASSES)),
                config(root, **write_list(root, 'ant/0.jpg 0', 'bee/1.jpg 2', 'cat/0.jpg 1')),
                config(root, **write_json(root, *(dict(img_path=f'{c}/0.jpg', gt_label=i)
                                                  for i, c in enumerate(CLASSES))))):
        check(cfg)
        assert set(labels_of(cfg)) == {0, 1, 2}


def test_the_number_of_classes_is_that_of_the_head(root):
    assert_refused(config(root, num_classes=1000), 'model.head.num_classes is 1000', '3 classes (ant, bee, cat)')
    assert_refused(config(root, num_classes=10, kind='CIFAR100'), 'num_classes is 10', '100 classes',
                   splits=('train', ))
    check(config(root, num_classes=100, kind='CIFAR100'), 'train')


def test_both_splits_have_the_same_classes(root):
    (root / 'val' / 'bee').rename(root / 'val' / 'dog')
    cfg = config(root)
    cfg.train_dataloader.dataset.data_prefix = 'val'
    assert labels_of(cfg) == [0, 1, 2]  # ant, cat, dog: the cat of training is 2
    assert_refused(config(root), 'lacks bee and has dog', "train' and '", 'empty ones')
    shutil.rmtree(root / 'val' / 'dog')
    assert_refused(config(root), 'lacks bee. Give both')
    (root / 'val' / 'bee').mkdir()
    check(config(root))
    assert labels_of(cfg) == [0, 2]


def test_names_go_by_the_alphabet_as_labels_do(root):
    cfg = config(root, metainfo=dict(classes=('bee', 'ant', 'cat')))
    assert labels_of(cfg) == [0, 0, 1, 1, 2, 2]  # the ants' is that of 'bee'
    assert_refused(cfg, 'is bee, ant, cat', 'ant, bee, cat', 'in this order')
    check(config(root, metainfo=dict(classes=('Hymenoptera 1', 'Hymenoptera 2', 'Felidae'))))  # other names are names


def test_folders_without_images(root, warnings):
    for image in (root / 'train' / 'bee').iterdir():
        image.rename(image.with_suffix('.webp'))
    check(config(root))
    warning, = warnings
    assert "train' holds no image of 1 of its 3 classes: bee" in warning
    check(config(root, extensions=('.jpg', '.webp')))
    assert warnings == [warning]
    assert_refused(config(root, extensions=('.png', )), 'holds no image in its 3 class folders', 'end with .png')


@pytest.mark.parametrize('line, problem', [
    ('', "line 2 is ''"), ('ant/1.jpg', "line 2 is 'ant/1.jpg'"), ('ant/1.jpg,1', 'must be a path and a number'),
    ('ant/1.jpg one', "line 2 is 'ant/1.jpg one'"),
    ('ant/1.jpg 3', 'line 2 is 3, but model.head.num_classes is 3: labels are 0 to 2'),
    ('ant/1.jpg -1', 'line 2 is -1'), ('ant/2.jpg 1', "names 1 images that do not exist, such as"),
])
def test_a_list_of_images_with_a_wrong_line(root, line, problem):
    assert_refused(config(root, **write_list(root, 'ant/0.jpg 0', line, 'bee/0.jpg 1')), 'list.txt', problem)


def test_lists_of_images_in_imagenets_meta(root, warnings):
    (root / 'meta').mkdir()
    (root / 'meta' / 'train.txt').write_text('ant/0.jpg 1\nbee/0.jpg 5\n')
    cfg = config(root, kind='ImageNet', data_prefix='', split='train')
    assert_refused(cfg, "meta/train.txt', line 2 is 5")
    (root / 'meta' / 'train.txt').write_text('ant/0.jpg 1\nbee/0.jpg 2\n')
    check(cfg)
    few, names = warnings
    assert 'images of 2 classes, but model.head.num_classes is 3' in few and 'class names of ImageNet, tench' in names


def test_spaces_in_paths_and_other_letters(root):
    (root / 'train' / 'große Bären').mkdir()
    shutil.copy(root / 'train' / 'ant' / '0.jpg', root / 'train' / 'große Bären' / 'a 1.jpg')
    cfg = config(root, **write_list(root, 'große Bären/a 1.jpg 2', 'ant/0.jpg 0', 'bee/0.jpg 1'))
    check(cfg)
    assert labels_of(cfg) == [2, 0, 1]


def test_lists_in_a_wrong_encoding(root):
    (root / 'list.txt').write_bytes('ä/0.jpg 0\n'.encode('latin-1'))
    assert_refused(config(root, ann_file='list.txt'), "list.txt' can't be read")
    (root / 'list.txt').write_bytes('ant/0.jpg 0\n'.encode('utf-8-sig'))
    assert_refused(config(root, ann_file='list.txt'), 'byte order mark')


ENTRY = dict(img_path='ant/0.jpg', gt_label=0)


@pytest.mark.parametrize('entry, problem', [
    ('ant/0.jpg', 'data_list[1] has no img_path'), (dict(gt_label=0), 'data_list[1] has no img_path'),
    (dict(ENTRY, gt_label='0'), "data_list[1].gt_label is '0'"), (dict(img_path='ant/0.jpg'), 'gt_label is None'),
    (dict(ENTRY, gt_label=3), 'gt_label is 3, but there are 3 classes: labels are 0 to 2'),
    (dict(ENTRY, gt_label=[0, 7]), 'gt_label is 7'), (dict(ENTRY, img_path='gone.jpg'), "such as '"),
])
def test_a_json_file_with_a_wrong_entry(root, entry, problem):
    assert_refused(config(root, **write_json(root, ENTRY, entry)), 'list.json', problem)


@pytest.mark.parametrize('content', ['', '[]', '{"data_list": [{}]}', '{"metainfo": {}, "data_list": []}'])
def test_another_json_file(root, content):
    (root / 'list.json').write_text(content)
    assert_refused(config(root, kind='BaseDataset', ann_file='list.json'), 'list.json', 'json')


def test_classes_of_a_json_file_are_compared(root):
    two = dict(categories=[dict(id=1, category_name='b'), dict(id=0, category_name='a')])
    assert_refused(config(root, **write_json(root, ENTRY, metainfo=two)), 'num_classes is 3', '2 classes')
    check(config(root, num_classes=2, **write_json(root, ENTRY, metainfo=two)), 'train')


def test_files_are_read_by_one_process(root, monkeypatch):
    cfg = config(root, **write_list(root, 'spoilt'))
    assert_refused(cfg, 'line 1')
    monkeypatch.setenv('RANK', '1')
    check(cfg)
