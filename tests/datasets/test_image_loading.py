import os

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from PIL import Image

from mmfasternet.datasets import LoadImageFromFile
from mmfasternet.errors import DataError
from tests.conftest import UNREADABLE


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'bmp', 'webp'])
def test_loads_as_mmcv_does(tmp_path, picture, suffix):
    path = tmp_path / f'ein bild \u00fc.{suffix}'
    Image.fromarray(picture).save(path)
    ours = LoadImageFromFile().transform({'img_path': str(path)})
    theirs = MMCVLoadImageFromFile().transform({'img_path': str(path)})
    assert np.array_equal(ours['img'], theirs['img'])
    assert ours['img_shape'] == ours['ori_shape'] == (60, 80)


@pytest.mark.parametrize('suffix', ['jpg', 'png'])
@pytest.mark.parametrize('share', [0.1, 0.5, 0.95])
def test_a_truncated_file_is_named(tmp_path, picture, suffix, share):
    path = tmp_path / f'cut.{suffix}'
    Image.fromarray(picture).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:int(len(content) * share)])
    with pytest.raises(DataError, match=r'cut\.\w+.* is broken'):
        LoadImageFromFile().transform({'img_path': str(path)})
    assert LoadImageFromFile(ignore_empty=True).transform({'img_path': str(path)}) is None


@pytest.mark.parametrize('content', [b'', b'<html>404</html>', b'\xff\xd8\xff\xd9', b'\x00' * 100])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / 'fake.jpg'
    path.write_bytes(content)
    with pytest.raises(DataError, match=r'fake\.jpg') as caught:
        LoadImageFromFile().transform({'img_path': str(path)})
    assert '\n' not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jpg.* does not exist"):
        LoadImageFromFile().transform({'img_path': str(tmp_path / 'nowhere.jpg')})


@pytest.mark.skipif(not os.path.exists(UNREADABLE), reason='Linux has a file whose first bytes nobody can read')
def test_what_the_system_says_is_not_taken_for_a_broken_image(tmp_path):
    (tmp_path / 'a.jpg').symlink_to(UNREADABLE)
    for path, reason in ((tmp_path / 'a.jpg', 'Input/output error'), (tmp_path / ('x' * 300), 'File name too long')):
        with pytest.raises(DataError, match=rf"^image '{path}' can't be read: {reason}$"):
            LoadImageFromFile().transform({'img_path': str(path)})


def test_a_complete_jpeg_with_something_appended_loads(tmp_path, picture):
    path = tmp_path / 'appended.jpg'
    Image.fromarray(picture).save(path)
    path.write_bytes(path.read_bytes() + b'trailer of a camera')
    assert LoadImageFromFile().transform({'img_path': str(path)})['img'].shape == (60, 80, 3)
