import json
import shutil

import cv2
import numpy as np
import pytest

from tests.conftest import SHAPES_CONFIG, data_options


@pytest.fixture
def two_folders(shapes, tmp_path):
    """The dataset's first two images, each called ``x.png`` in a folder of its own."""
    root = tmp_path / 'data'
    content = json.loads((shapes / 'annotations' / 'instances_val.json').read_text())
    content['images'] = content['images'][:2]
    for image, folder in zip(content['images'], 'ab'):
        (root / 'val' / folder).mkdir(parents=True)
        shutil.copy(shapes / 'val' / image['file_name'], root / 'val' / folder / 'x.png')
        image['file_name'] = f'{folder}/x.png'
    ids = {image['id'] for image in content['images']}
    content['annotations'] = [each for each in content['annotations'] if each['image_id'] in ids]
    (root / 'annotations').mkdir()
    (root / 'annotations' / 'instances_val.json').write_text(json.dumps(content))
    return root


@pytest.mark.parametrize('batch_size', [1, 2])
def test_images_of_one_name_are_drawn_apart(run_tool, trained, two_folders, tmp_path, batch_size):
    result = run_tool('test', SHAPES_CONFIG, trained / 'epoch_2.pth', '--work-dir', tmp_path / 'work', '--show-dir',
                      tmp_path / 'shown', '--cfg-options', *data_options(two_folders),
                      f'test_dataloader.batch_size={batch_size}')
    assert result.code == 0, result.err
    shown = tmp_path / 'shown'
    assert sorted(str(path.relative_to(shown)) for path in shown.rglob('*.png')) == ['a/x.png', 'b/x.png']
    for folder in 'ab':  # the truth is drawn on the left half, the predictions on the right one
        drawn, image = (cv2.imread(str(root / folder / 'x.png')) for root in (shown, two_folders / 'val'))
        image = cv2.resize(image, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)  # as a small one is enlarged
        assert drawn.shape == (576, 1152, 3) and np.median(np.abs(drawn[:, 576:].astype(int) - image)) < 30
    assert 'PicturesHook' in result.out and 'PictureVisualizer' in result.out


def test_images_of_different_names_are_drawn_side_by_side(run_tool, trained, shapes, tmp_path):
    result = run_tool('test', SHAPES_CONFIG, trained / 'epoch_2.pth', '--work-dir', tmp_path / 'work', '--show-dir',
                      tmp_path / 'shown', '--cfg-options', *data_options(shapes))
    assert result.code == 0, result.err
    assert sorted(path.name for path in (tmp_path / 'shown').iterdir()) == sorted(
        path.name for path in (shapes / 'val').iterdir())
