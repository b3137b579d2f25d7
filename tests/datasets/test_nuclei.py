import json
import os
import shutil
from collections import Counter

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmfasternet.datasets import nuclei
from mmfasternet.datasets.nuclei import make_nuclei_coco
from mmfasternet.errors import ArgumentError, DataError, UserError

NAMES = [f'cell{number:02d}' for number in range(24)]


def make_folder(root, name, seed, size=(32, 40)):
    """A folder of the download: an image with an alpha channel, and two masks of ellipses."""
    rng = np.random.default_rng(seed)
    for kind in ('images', 'masks'):
        (root / name / kind).mkdir(parents=True)
    image = rng.integers(0, 256, (*size, 4), dtype=np.uint8)
    cv2.imwrite(str(root / name / 'images' / f'{name}.png'), image)
    masks = []
    for x in (8, 28):
        mask = np.zeros(size, np.uint8)
        cv2.ellipse(mask, (x, int(rng.integers(6, 26))), rng.integers(2, 7, 2).tolist(), 0, 0, 360, 255, -1)
        cv2.imwrite(str(root / name / 'masks' / f'{x:02d}.png'), mask)
        masks.append(mask > 0)
    return image[..., :3], masks


@pytest.fixture(scope='module')
def download(tmp_path_factory):
    """The folder, and what each of its folders holds by the name."""
    root = tmp_path_factory.mktemp('download') / 'stage1_train'
    return root, {name: make_folder(root, name, seed) for seed, name in enumerate(NAMES)}


@pytest.fixture
def source(download, tmp_path):
    return shutil.copytree(download[0], tmp_path / 'stage1_train')


def split_of(root):
    return {image['file_name'].removesuffix('.png'): split for split in ('train', 'val')
            for image in json.loads((root / f'{split}.json').read_text())['images']}


def test_the_files_hold_images_and_masks(download, tmp_path):
    source, content = download
    report = make_nuclei_coco(source, tmp_path / 'new' / 'nuclei')
    assert not report.problems and not report.too_large
    root = tmp_path / 'new' / 'nuclei'
    assert sorted(os.listdir(root)) == ['images', 'train.json', 'val.json']
    assert sorted(os.listdir(root / 'images')) == [f'{name}.png' for name in NAMES]
    seen = []
    for split in ('train', 'val'):
        coco = COCO(str(root / f'{split}.json'))
        assert coco.loadCats(coco.getCatIds()) == [dict(id=1, name='nucleus')]
        for image in coco.loadImgs(coco.getImgIds()):
            pixels, masks = content[image['file_name'].removesuffix('.png')]
            np.testing.assert_array_equal(
                cv2.imread(str(root / 'images' / image['file_name']), cv2.IMREAD_UNCHANGED), pixels)
            rows = coco.loadAnns(sorted(coco.getAnnIds(image['id'])))
            np.testing.assert_array_equal([coco.annToMask(row) > 0 for row in rows], masks)
            seen.append(image['file_name'])
    assert len(seen) == len(set(seen)) == len(NAMES)
    assert min(report.splits['train'].overlaps) == 1


def test_the_split_goes_by_names_alone(source, tmp_path):
    make_nuclei_coco(source, tmp_path / 'first')
    before = split_of(tmp_path / 'first')
    assert set(before.values()) == {'train', 'val'}
    shutil.rmtree(source / NAMES[0])
    make_folder(source, 'a_new_one', 99)
    make_nuclei_coco(source, tmp_path / 'second')
    after = split_of(tmp_path / 'second')
    assert {name: after[name] for name in NAMES[1:]} == {name: before[name] for name in NAMES[1:]}
    for share in (0.1, 0.5):
        drawn = Counter(nuclei._draw(str(number)) < share for number in range(4000))
        assert drawn[True] / 4000 == pytest.approx(share, abs=0.03)
    make_nuclei_coco(source, tmp_path / 'half', val_share=0.5)
    assert Counter(split_of(tmp_path / 'half').values())['val'] > Counter(after.values())['val']


def test_large_images_can_be_left_out(source, tmp_path):
    make_folder(source, 'wide', 50, size=(32, 41))
    report = make_nuclei_coco(source, tmp_path / 'nuclei', max_size=40)
    assert report.too_large == 1 and not report.problems
    assert sorted(split_of(tmp_path / 'nuclei')) == NAMES
    assert not (tmp_path / 'nuclei' / 'images' / 'wide.png').exists()
    with pytest.raises(DataError, match='of the 25 folders .* none is left .* max_size=20, which skips 25'):
        make_nuclei_coco(source, tmp_path / 'none', max_size=20)


def test_segmentations_may_be_encodings(source, tmp_path):
    make_nuclei_coco(source, tmp_path / 'nuclei', segmentation='rle')
    rows = json.loads((tmp_path / 'nuclei' / 'train.json').read_text())['annotations']
    assert rows and all(isinstance(row['segmentation'], dict) for row in rows)


def test_bad_folders_are_named_and_cost_no_other(source, tmp_path):
    def mask(name):
        return str(source / name / 'masks' / '08.png')

    shutil.rmtree(source / 'cell01' / 'images')
    shutil.copy(source / 'cell00' / 'images' / 'cell00.png', source / 'cell02' / 'images')
    shutil.rmtree(source / 'cell03' / 'masks')
    cv2.imwrite(mask('cell04'), np.ones((32, 41), np.uint8))
    (source / 'cell05' / 'masks' / '08.png').write_bytes(b'no image')
    image = source / 'cell06' / 'images' / 'cell06.png'
    image.write_bytes(image.read_bytes()[:2000])
    cv2.imwrite(mask('cell07'), np.zeros((32, 40), np.uint8))
    for name in ('.git', '__MACOSX'):  # of other programs
        (source / name).mkdir()
    (source / 'stage1_train_labels.csv').touch()
    (source / 'cell08' / 'masks' / '._08.png').write_bytes(b'of macOS')

    report = make_nuclei_coco(source, tmp_path / 'nuclei')
    parts = ['has no image in images/', 'has 2 images in images/', 'has no mask in masks/',
             "08.png' has the shape 32 x 41", "08.png' can't be read", 'is broken (image file is truncated']
    lines = [line for line in report.problems if 'empty' not in line]
    for number, (part, line) in enumerate(zip(parts, lines, strict=True), 1):
        assert line.startswith(f'cell{number:02d} is skipped: ') and part in line and '\n' not in line
    assert f"mask '{tmp_path}/nuclei" not in str(report.problems)
    empty = [line for line in report.problems if 'empty' in line]
    assert empty == [f"mask '{mask('cell07')}' is skipped: it is empty"]
    kept = [name for name in NAMES if name not in [f'cell{number:02d}' for number in range(1, 7)]]
    assert sorted(split_of(tmp_path / 'nuclei')) == kept
    assert sorted(os.listdir(tmp_path / 'nuclei' / 'images')) == [f'{name}.png' for name in kept]


@pytest.mark.parametrize('arguments, part', [
    (dict(val_share=0), 'val_share'), (dict(val_share=1), 'val_share'), (dict(max_size=0), 'max_size'),
    (dict(segmentation='mask'), 'segmentation'),
])
def test_numbers_out_of_range_are_named(source, tmp_path, arguments, part):
    with pytest.raises(ArgumentError, match=part):
        make_nuclei_coco(source, tmp_path / 'nuclei', **arguments)
    assert not (tmp_path / 'nuclei').exists()


def test_what_is_no_download_is_refused(source, tmp_path):
    with pytest.raises(DataError, match='stage1'):
        make_nuclei_coco(tmp_path / 'gone', tmp_path / 'nuclei')
    with pytest.raises(DataError, match='has no subfolder with images/ and masks/'):
        make_nuclei_coco(tmp_path, tmp_path / 'nuclei')
    for name in NAMES:
        shutil.rmtree(source / name / 'masks')
    line = 'of the 24 folders in .* none is left for train.json .* The first of 24'
    with pytest.raises(DataError, match=line) as error:
        make_nuclei_coco(source, tmp_path / 'nuclei')
    assert 'cell00' in str(error.value)
    assert os.listdir(tmp_path) == ['stage1_train']


def test_what_is_there_is_left_alone(source, tmp_path):
    (tmp_path / 'nuclei').mkdir()
    (tmp_path / 'nuclei' / 'mine').touch()
    with pytest.raises(UserError, match='already exists'):
        make_nuclei_coco(source, tmp_path / 'nuclei')
    assert os.listdir(tmp_path / 'nuclei') == ['mine']


def test_an_interrupted_run_leaves_nothing(source, tmp_path, monkeypatch):
    monkeypatch.setattr(nuclei, '_add', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_nuclei_coco(source, tmp_path / 'nuclei')
    assert os.listdir(tmp_path) == ['stage1_train']
