import cv2
import numpy as np
import pytest

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
