import json

import pytest

from mmfasternet.datasets.annotation_ids import category_ids, image_ids, read_ids
from mmfasternet.errors import DataError


def images(*names):
    return dict(images=[dict(id=10 * index, file_name=name) for index, name in enumerate(names, 1)])


@pytest.mark.parametrize('paths, ids', [
    (['/data/b/x.jpg', '/data/a/x.jpg'], [20, 10]),  # by their folders
    (['/elsewhere/y.jpg'], [30]),  # by its name, which is the only one
    (['/data/z.jpg'], [40]),
])
def test_images_of_one_name_are_told_apart_by_their_folders(paths, ids):
    assert image_ids(images('a/x.jpg', 'b/x.jpg', 'c/y.jpg', 'z.jpg'), paths) == ids


@pytest.mark.parametrize('names, path', [
    (['a/x.jpg', 'b/x.jpg'], '/elsewhere/x.jpg'),
    (['x.jpg', 'a/x.jpg'], '/data/a/x.jpg'),  # /data/a may be the folder of the first, and /data of the second
    (['x.jpg', 'x.jpg'], '/data/x.jpg'),
])
def test_an_image_that_may_be_several_is_refused(names, path):
    with pytest.raises(DataError, match=rf"image '{path}' matches 2 .*'{names[0]}' with id 10"):
        image_ids(images(*names), [path])


def test_relative_paths_have_folders_too(tmp_path, monkeypatch):
    (tmp_path / 'b').mkdir()
    monkeypatch.chdir(tmp_path / 'b')
    assert image_ids(images('a/x.jpg', 'b/x.jpg'), ['x.jpg']) == [20]


def test_names_that_are_absent_are_counted():
    with pytest.raises(DataError, match=r"no image 'p\.jpg' \(2 in all\)"):
        image_ids(images('x.jpg'), ['p.jpg', 'x.jpg', 'q.jpg'])
    with pytest.raises(DataError, match=r"no category 'Cat' \(1 in all\)"):
        category_ids(dict(categories=[dict(id=1, name='cat')]), ['Cat'])


def test_categories_go_by_their_names():
    content = dict(categories=[dict(id=7, name='dog'), dict(id=5, name='cat'), dict(id=6, name='dog')])
    assert category_ids(content, ['cat']) == [5]
    with pytest.raises(DataError, match="category 'dog' is in the annotation file with the ids 7, 6"):
        category_ids(content, ['cat', 'dog'])


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_a_byte_order_mark_is_read_over(tmp_path, encoding):
    content = dict(images('ä.jpg'), categories=[dict(id=1, name='a')])
    (tmp_path / 'a.json').write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    assert read_ids(str(tmp_path / 'a.json')) == content


@pytest.mark.parametrize('content', ['[]', '{}', '{"images": [1], "categories": []}',
                                     '{"images": [{"id": 1}], "categories": []}',
                                     '{"images": [], "categories": {"cat": 1}}'])
def test_another_file_is_one_line(tmp_path, content):
    (tmp_path / 'a.json').write_text(content)
    with pytest.raises(DataError, match=r"a\.json' can't be used for its ids: .*COCO format"):
        read_ids(str(tmp_path / 'a.json'))
