import cv2
import numpy as np
import pytest
from PIL import Image

from mmfasternet.datasets import image_files
from mmfasternet.datasets.image_files import find_images
from mmfasternet.errors import DataError


@pytest.fixture
def tree(tmp_path):
    for folder in 'abc':
        (tmp_path / folder).mkdir()
        for name in ('1.png', '2.JPEG', 'notes.txt'):
            (tmp_path / folder / name).write_bytes(cv2.imencode('.png', np.zeros((2, 2, 3), np.uint8))[1].tobytes())
    return tmp_path


def names(tree, paths):
    return [path.removeprefix(f'{tree}/') for path in paths]


def test_a_folder_and_an_image(tree):
    assert names(tree, find_images(str(tree / 'a'))) == ['a/1.png', 'a/2.JPEG']
    assert names(tree, find_images(str(tree / 'a'), 1)) == ['a/1.png']
    assert names(tree, find_images(str(tree / 'a' / '1.png'), 4)) == ['a/1.png']


def test_a_tree_is_looked_at_where_it_is_wanted_and_all_over_it(tree):
    assert len(find_images(str(tree), tree=True)) == 6
    assert names(tree, find_images(str(tree), 3, tree=True)) == ['a/1.png', 'b/1.png', 'c/1.png']
    with pytest.raises(DataError, match='holds no image'):
        find_images(str(tree))


def test_only_the_images_that_are_taken_are_looked_into(tree):
    (tree / 'a' / '2.JPEG').write_bytes(b'broken')
    assert len(find_images(str(tree / 'a'), 1)) == 1
    with pytest.raises(DataError, match=r'2\.JPEG'):
        find_images(str(tree / 'a'))


def test_a_folder_of_videos_says_what_takes_them(tree):
    (tree / 'c.mp4').touch()
    with pytest.raises(DataError, match=r"holds no image, but videos \(1\), such as 'c\.mp4'"):
        find_images(str(tree))


@pytest.mark.parametrize('count', [0, 2])
def test_videos_beside_images_are_left_out_and_said(tree, monkeypatch, count):
    lines = []
    monkeypatch.setattr(image_files, 'print_log', lambda line, *args: lines.append(line))
    for number in range(count):
        (tree / 'a' / f'{number}.mp4').touch()
    assert len(find_images(str(tree / 'a'))) == 2
    assert [f"not the {count} videos, such as '0.mp4'" in line for line in lines] == [True] * bool(count)


@pytest.mark.parametrize('suffix', ['.webp', '.png', '.tiff'])
@pytest.mark.parametrize('count', [1, 3])
def test_of_an_animated_image_the_first_is_taken_and_said(tmp_path, monkeypatch, suffix, count):
    lines = []
    monkeypatch.setattr(image_files, 'print_log', lambda line, *args: lines.append(line))
    first, *others = (Image.fromarray(np.full((8, 8, 3), 40 * index, np.uint8)) for index in range(count))
    path = str(tmp_path / f'a{suffix}')
    first.save(path, save_all=True, append_images=others)
    assert find_images(path) == [path] and cv2.imread(path).max() == 0
    said = [f"holds {count} images, of which only the first is used" in line for line in lines]
    assert said == [True] * (count > 1)
