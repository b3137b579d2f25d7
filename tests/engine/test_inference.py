import copy
import functools
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.visualization import Visualizer

from mmfasternet.engine import inference
from mmfasternet.engine.building import build_unloaded
from mmfasternet.engine.config import load_config
from mmfasternet.engine.inference import predict, predict_video
from mmfasternet.engine.picture_visualizer import PictureVisualizer
from mmfasternet.engine.predictors import DetectorPredictor
from mmfasternet.errors import ArgumentError, DataError, UserError
from tests.conftest import ROOT, SHAPES_CONFIG
from tests.datasets.test_video_files import make_gif, make_video

FRAMES = 5


@pytest.fixture
def detector(trained):
    return load_config(str(SHAPES_CONFIG)), str(trained / 'epoch_2.pth')


@pytest.fixture
def classifier(tmp_path):
    cfg = load_config(str(ROOT / 'configs' / 'fasternet_t0_in1k.py'))
    torch.save(build_unloaded(cfg).state_dict(), tmp_path / 'classifier.pth')
    return cfg, str(tmp_path / 'classifier.pth')


@pytest.fixture
def pictures(shapes):
    return sorted(map(str, (shapes / 'val').iterdir()))[:FRAMES]


@pytest.fixture
def clip(tmp_path, pictures):
    """A video of the dataset's images, without loss but for the rounding of its colours."""
    writer = cv2.VideoWriter(str(tmp_path / 'clip.avi'), cv2.VideoWriter.fourcc(*'FFV1'), 10, (96, 96))
    assert writer.isOpened()
    for picture in pictures:
        writer.write(cv2.imread(picture))
    writer.release()
    return str(tmp_path / 'clip.avi')


def frames(path):
    capture, found = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        found.append(read[1])
    return found


@pytest.fixture
def thin(tmp_path):
    cv2.imwrite(str(tmp_path / 'thin.png'), np.zeros((5000, 1, 3), np.uint8))  # its smaller side would become 0 pixels
    return str(tmp_path / 'thin.png')


@pytest.mark.parametrize('batch_size', [1, 2, 4])
def test_an_image_on_which_the_pipeline_fails_costs_no_other_one(detector, pictures, tmp_path, batch_size, thin):
    expected = predict(*detector, pictures[:3], str(tmp_path / 'all'), batch_size=batch_size, score_thr=0.)
    (tmp_path / 'out' / 'vis').mkdir(parents=True)
    (tmp_path / 'out' / 'vis' / 'thin.png').touch()  # of an earlier run
    with pytest.raises(DataError, match=r"^image '\S+thin\.png': the test pipeline fails on it .error: OpenCV.*\. "
                                        r"1 of 4 images were skipped; the predictions for the others are in '\S+out'$"):
        predict(*detector, [*pictures[:2], thin, pictures[2]], str(tmp_path / 'out'), batch_size=batch_size,
                score_thr=0.)
    rows = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert {row['image_id'] for row in rows} == {1, 2, 4} and len(rows) == len(expected)
    for row, wanted in zip(rows, expected):
        assert (row['file_name'], row['category_id']) == (wanted['file_name'], wanted['category_id'])
        assert row['score'] == pytest.approx(wanted['score'], abs=1e-4)  # other batches
    assert {path.name for path in (tmp_path / 'out' / 'vis').iterdir()} == {row['file_name'] for row in rows}


def test_no_prediction_is_written_if_the_pipeline_fails_on_all_images(detector, tmp_path, thin):
    with pytest.raises(DataError, match=r"^image '\S+thin\.png': the test pipeline fails on it \(.*\)$"):
        predict(*detector, [thin], str(tmp_path / 'out'))
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('batch_size', [1, 3, 16])
def test_a_pipeline_that_fails_on_the_first_images_ends_the_prediction(detector, pictures, tmp_path, monkeypatch,
                                                                       batch_size):
    def fail(self, images, batch_size):
        raise KeyError('scale')

    said = []
    monkeypatch.setattr(DetInferencer, 'preprocess', fail)
    monkeypatch.setattr(inference, 'print_log', lambda line, *rest: said.append(line))
    images = [shutil.copy(pictures[0], tmp_path / f'{number:02}.png') for number in range(12)]
    reason = r"the test pipeline fails on it \(KeyError: 'scale'\), and on the 9 images after it"
    with pytest.raises(DataError, match=f"^image '{images[0]}': {reason}$"):
        predict(*detector, list(map(str, images)), str(tmp_path / 'out'), batch_size=batch_size)
    assert len(said) == 9 and said[8].startswith(f"skipped: image '{images[8]}'") and not (tmp_path / 'out').exists()


def test_a_batch_size_out_of_its_range_is_named(detector, pictures, clip, tmp_path):
    for function, given in ((predict, pictures), (predict_video, clip)):
        with pytest.raises(ArgumentError, match='^batch_size must be at least 1, got 0$'):
            function(*detector, given, str(tmp_path / 'out'), batch_size=0)
    assert not list(tmp_path.glob('out/**/*.*'))


def test_a_prediction_leaves_no_visualizer_behind(detector, pictures, tmp_path):
    """A later training of the process would get it by its name, and write nothing."""
    before = [dict(kind._instance_dict) for kind in (PictureVisualizer, Visualizer)]
    predict(*detector, pictures[:1], str(tmp_path))
    assert [dict(kind._instance_dict) for kind in (PictureVisualizer, Visualizer)] == before


def test_joined_datasets_give_the_pipeline_of_the_first(detector, pictures, tmp_path):
    cfg, checkpoint = detector
    expected = predict(cfg, checkpoint, pictures[:1], str(tmp_path / 'one'))
    cfg = copy.deepcopy(cfg)
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[cfg.test_dataloader.dataset] * 2)
    assert predict(cfg, checkpoint, pictures[:1], str(tmp_path / 'two')) == expected


@pytest.mark.parametrize('key', ['test_dataloader', 'test_dataloader.dataset.pipeline'])
def test_a_config_without_a_pipeline_is_one_line(detector, pictures, tmp_path, key):
    cfg, checkpoint = copy.deepcopy(detector[0]), detector[1]
    *path, last = key.split('.')
    functools.reduce(getattr, path, cfg).pop(last)
    with pytest.raises(UserError, match=f"^config '.*' has no {last}.*needed"):
        predict(cfg, checkpoint, pictures[:1], str(tmp_path))


@pytest.mark.slow
def test_detections_of_a_video_are_those_of_its_frames(detector, clip, tmp_path):
    """Against the same frames as pictures."""
    for number, frame in enumerate(frames(clip)):
        cv2.imwrite(str(tmp_path / f'{number}.png'), frame)
    expected = predict(*detector, [str(tmp_path / f'{number}.png') for number in range(FRAMES)], str(tmp_path / 'a'),
                       score_thr=0.)
    rows, video = predict_video(*detector, clip, str(tmp_path / 'b'), score_thr=0.)
    assert json.loads((tmp_path / 'b' / 'predictions.json').read_text()) == rows and len(rows) > 0
    assert {row['frame'] for row in rows} == set(range(FRAMES))
    for row, wanted in zip(rows, expected, strict=True):
        assert row['image_id'] == row['frame'] == wanted['image_id'] - 1
        assert wanted['file_name'] == f'{row["frame"]}.png'
        same = set(wanted) - {'image_id', 'file_name'}
        assert {key: row[key] for key in same} == {key: wanted[key] for key in same}
    assert video == tmp_path / 'b' / 'vis' / 'clip.avi.mp4' and len(frames(video)) == FRAMES


def test_a_video_keeps_its_colours_and_gets_what_is_drawn(detector, clip, tmp_path):
    """But for what the codec loses."""
    _, plain = predict_video(*detector, clip, str(tmp_path / 'plain'), score_thr=1.)
    _, drawn = predict_video(*detector, clip, str(tmp_path / 'drawn'), score_thr=0.)
    for before, without, with_objects in zip(frames(clip), frames(plain), frames(drawn), strict=True):
        lost, swapped, objects = (np.abs(frame.astype(int) - other).mean() for frame, other in (
            (without, before), (without, before[..., ::-1]), (with_objects, before)))
        assert lost < 14 and swapped > 20 and objects > max(20, 2 * lost), (lost, swapped, objects)


def test_classes_of_a_video(classifier, clip, tmp_path):
    rows, video = predict_video(*classifier, clip, str(tmp_path / 'out'), batch_size=2)
    assert [row['frame'] for row in rows] == list(range(FRAMES)) and 'image_id' not in rows[0]
    assert all(len(row['classes']) == len(row['scores']) == 5 for row in rows)
    assert frames(video)[0].shape == (96, 96, 3) and len(frames(video)) == FRAMES
    for number, frame in enumerate(frames(clip)):
        cv2.imwrite(str(tmp_path / f'{number}.png'), frame)
    pictures = predict(*classifier, [str(tmp_path / f'{number}.png') for number in range(FRAMES)], str(tmp_path / 'p'))
    assert [row['classes'] for row in pictures] == [row['classes'] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize('size, sizes', [(1, [1] * FRAMES), (2, [2, 2, 1]), (9, [FRAMES])])
def test_frames_and_images_go_in_batches(detector, clip, pictures, tmp_path, monkeypatch, size, sizes):
    called, before = [], DetectorPredictor.__call__

    def call(self, images):
        called.append(len(images))
        return before(self, images)

    monkeypatch.setattr(DetectorPredictor, '__call__', call)
    rows, _ = predict_video(*detector, clip, str(tmp_path / 'a'), score_thr=0., batch_size=size)
    assert called == sizes and {row['frame'] for row in rows} == set(range(FRAMES))
    rows = predict(*detector, pictures, str(tmp_path / 'b'), score_thr=0., batch_size=size)
    assert called == sizes * 2 and {row['image_id'] for row in rows} == set(range(1, FRAMES + 1))


def test_no_more_than_a_batch_of_a_video_is_in_memory(detector, tmp_path, monkeypatch):
    read, ahead = 0, []

    class Counted(inference.VideoFile):

        def __iter__(self):
            nonlocal read
            for frame in super().__iter__():
                read += 1
                yield frame

    def call(self, images):
        ahead.append(read)
        return before(self, images)

    before = DetectorPredictor.__call__
    monkeypatch.setattr(inference, 'VideoFile', Counted)
    monkeypatch.setattr(DetectorPredictor, '__call__', call)
    predict_video(*detector, str(make_video(tmp_path / 'a.avi', 6)), str(tmp_path / 'out'), batch_size=2)
    assert ahead == [2, 4, 6]


def test_ids_of_categories_hold_for_a_video(run_tool, trained, clip, shapes, tmp_path):
    content = json.loads((shapes / 'annotations' / 'instances_val.json').read_text())
    for category in content['categories']:
        category['id'] *= 11
    (tmp_path / 'ids.json').write_text(json.dumps(content), encoding='utf-8-sig')
    result = run_tool('image_demo', clip, SHAPES_CONFIG, trained / 'epoch_2.pth', '--out-dir', tmp_path / 'out',
                      '--score-thr', 0, '--ann-file', tmp_path / 'ids.json', '--batch-size', 4)
    assert result.code == 0 and 'Inference' in result.out and 'clip.avi.mp4' in result.out, result.err
    rows = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert rows and all(row['category_id'] % 11 == 0 for row in rows)


def test_a_broken_video_is_one_line_and_a_gif_is_a_video(run_tool, trained, tmp_path):
    (tmp_path / 'a.mp4').write_bytes(b'no video')
    arguments = [SHAPES_CONFIG, trained / 'epoch_2.pth', '--out-dir', tmp_path / 'out']
    result = run_tool('image_demo', tmp_path / 'a.mp4', *arguments)
    assert result.code == 1 and "can't open video" in result.err and 'a.mp4' in result.err
    assert result.err.count('\n') == 1 and not (tmp_path / 'out').exists()
    result = run_tool('image_demo', make_gif(tmp_path / 'a.gif', 3), *arguments)
    assert result.code == 0 and len(frames(tmp_path / 'out' / 'vis' / 'a.gif.mp4')) == 3, result.err


def test_images_of_one_name_keep_their_folders(detector, shapes, pictures, tmp_path):
    """Neither their pictures nor their rows are taken for one another's."""
    paths = []
    for folder, picture in zip('ab', pictures):
        (tmp_path / folder).mkdir()
        paths.append(str(shutil.copy(picture, tmp_path / folder / 'x.png')))
    content = json.loads((shapes / 'annotations' / 'instances_val.json').read_text())
    content['images'] = [dict(id=number, file_name=f'{folder}/x.png') for folder, number in (('b', 5), ('a', 6))]
    (tmp_path / 'ids.json').write_text(json.dumps(content))
    rows = predict(*detector, paths, str(tmp_path / 'out'), score_thr=0., ann_file=str(tmp_path / 'ids.json'))
    assert {(row['file_name'], row['image_id']) for row in rows} == {('a/x.png', 6), ('b/x.png', 5)}
    drawn = [cv2.imread(str(tmp_path / 'out' / 'vis' / folder / 'x.png')) for folder in 'ab']
    assert not np.array_equal(*drawn)


def test_classified_images_of_one_stem_are_drawn_apart(classifier, pictures, tmp_path):
    images = []
    for name in ('x.png', 'x.jpg', 'x'):
        encoded = cv2.imencode(f'.{name[2:] or "png"}', cv2.imread(pictures[0]))[1]
        (tmp_path / name).write_bytes(encoded.tobytes())
        images.append(str(tmp_path / name))
    predict(*classifier, images[:2], str(tmp_path / 'out'))
    predict(*classifier, images[2:], str(tmp_path / 'bare'))
    assert sorted(path.name for path in (tmp_path / 'out' / 'vis').iterdir()) == ['x.jpg', 'x.png']
    assert [path.name for path in (tmp_path / 'bare' / 'vis').iterdir()] == ['x.png']


def test_what_is_read_is_not_overwritten(detector, pictures, tmp_path):
    (tmp_path / 'vis').mkdir()
    image = shutil.copy(pictures[0], tmp_path / 'vis' / 'a.png')
    video = make_video(tmp_path / 'vis' / 'a.mp4')
    before = [path.read_bytes() for path in (image, video)]
    with pytest.raises(UserError, match=r"vis/a\.png' would be overwritten.*--out-dir"):
        predict(*detector, [str(image)], str(tmp_path))
    with pytest.raises(UserError, match=r"vis/a\.mp4' would be overwritten"):
        predict_video(*detector, str(video), str(tmp_path))
    assert [path.read_bytes() for path in (image, video)] == before


@pytest.mark.parametrize('omit', [False, True])
def test_the_visualizer_can_be_omitted(detector, pictures, tmp_path, monkeypatch, omit):
    cfg, weights = detector
    cfg.mmfasternet = dict(omit=['PictureVisualizer'] * omit)
    kinds, draw = [], DetectorPredictor.draw
    monkeypatch.setattr(DetectorPredictor, 'draw', lambda self, *args, **kwargs: (
        kinds.append(type(self._inferencer.visualizer)), draw(self, *args, **kwargs))[1])
    predict(cfg, weights, pictures[:1], str(tmp_path / 'out'), 'cpu')
    assert (kinds == [PictureVisualizer]) is not omit and len(kinds) == 1
