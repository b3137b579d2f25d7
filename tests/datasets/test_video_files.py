import logging
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from mmfasternet.datasets import video_files
from mmfasternet.datasets.video_files import VideoFile, is_video, write_video
from mmfasternet.errors import DataError, UserError

# Containers and codecs that OpenCV's wheels write, by suffix.
CODECS = {'.mp4': 'mp4v', '.avi': 'MJPG', '.webm': 'VP80'}


class Wrapped:
    """One of OpenCV's objects, whose classes crash when others are derived from them."""

    fourcc = staticmethod(cv2.VideoWriter.fourcc)

    def __init__(self, *arguments):
        self.wrapped = self.kind(*arguments)

    def __getattr__(self, name):
        return getattr(self.wrapped, name)


def says(key, value):
    """OpenCV's reader, which says something else of a file."""

    class Saying(Wrapped):
        kind = cv2.VideoCapture

        def get(self, asked):
            return value if asked == key else self.wrapped.get(asked)

    return Saying


def grey(count, size=(96, 64)):
    return [np.full((size[1], size[0], 3), 20 * index, np.uint8) for index in range(count)]


def make_video(path, count=6, size=(96, 64), rate=10):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODECS[path.suffix]), rate, size)
    assert writer.isOpened()
    for frame in grey(count, size):
        writer.write(frame)
    writer.release()
    return path


def make_gif(path, count=4):
    first, *others = map(Image.fromarray, grey(count))
    first.save(path, save_all=True, append_images=others, duration=100)
    return path


def shades(path):
    return [round(frame.mean() / 20, 1) for frame in VideoFile(str(path))]


@pytest.fixture
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr(video_files, 'print_log', lambda line, *args: lines.append((line, args[-1])))
    return lines


@pytest.mark.parametrize('suffix', CODECS)
def test_all_frames_come_in_their_order(tmp_path, logged, suffix):
    video = VideoFile(str(make_video(tmp_path / f'a{suffix}')))
    frames = list(video)
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 6 and video.rate == 10 and video.length == 6
    np.testing.assert_allclose([frame.mean() for frame in frames], [0, 20, 40, 60, 80, 100], atol=5)
    assert not logged


def test_an_animated_gif_is_a_video(tmp_path):
    assert is_video(str(make_gif(tmp_path / 'a.GIF')))
    assert shades(tmp_path / 'a.GIF') == [0, 1, 2, 3]
    assert not is_video(str(tmp_path / 'gone.gif')) and not is_video(__file__)


def empty(path):
    path.touch()


def junk(path):
    path.write_bytes(b'no video' * 100)


def cut(path):
    make_video(path)
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def unknown(path):
    """Of a codec that nobody has."""
    make_video(path)
    path.write_bytes(path.read_bytes().replace(CODECS[path.suffix].encode(), b'ZZZZ'))


def frameless(path):
    make_video(path, 0)


@pytest.mark.parametrize('name, make, problem', [
    ('empty.mp4', empty, 'is empty'),
    ('junk.mp4', junk, "can't open"),
    ('cut.mp4', cut, "can't open"),
    ('unknown.avi', unknown, "can't open"),
    ('none.mp4', frameless, "can't open"),
    ('none.avi', frameless, "can't decode a frame"),
])
def test_what_is_no_video_is_one_line(tmp_path, name, make, problem):
    make(tmp_path / name)
    with pytest.raises(DataError) as caught:
        VideoFile(str(tmp_path / name))
    assert name in str(caught.value) and problem in str(caught.value) and '\n' not in str(caught.value)


def test_frames_that_are_missing_at_the_end_are_said(tmp_path, logged, monkeypatch):
    make_video(tmp_path / 'a.avi')
    monkeypatch.setattr(video_files.cv2, 'VideoCapture', says(cv2.CAP_PROP_FRAME_COUNT, 9.))
    assert len(shades(tmp_path / 'a.avi')) == 6
    (line, level), = logged
    assert "a.avi' ends after 6 of 9 frames" in line and level == logging.WARNING


@pytest.mark.parametrize('rate', [0., float('nan'), -1.])
def test_a_video_without_a_rate_gets_the_usual_one(tmp_path, logged, monkeypatch, rate):
    make_video(tmp_path / 'a.avi')
    monkeypatch.setattr(video_files.cv2, 'VideoCapture', says(cv2.CAP_PROP_FPS, rate))
    assert VideoFile(str(tmp_path / 'a.avi')).rate == 25
    assert 'has no frame rate: 25' in logged[0][0]


@pytest.mark.parametrize('size', [(96, 64), (97, 63)])
def test_what_is_written_is_read_again(tmp_path, size):
    path = tmp_path / 'a.mp4'
    with write_video(path, 12.5) as append:
        for frame in grey(5, size):
            append(frame)
        assert not path.exists()
    video = VideoFile(str(path))
    assert video.rate == 12.5 and video.length == 5 and os.listdir(tmp_path) == ['a.mp4']
    width, height = size
    frames = list(video)
    assert frames[0].shape == (height + height % 2, width + width % 2, 3)  # nothing is cut off
    np.testing.assert_allclose([frame.mean() for frame in frames], [0, 20, 40, 60, 80], atol=5)


@pytest.mark.parametrize('rate', [0.04, 23.976, 59.94006, 65.4321, 90.1234, 119.8765, 239.7213, 333.3333, 999.99])
def test_any_rate_that_is_read_can_be_written(tmp_path, rate):
    path = tmp_path / 'a.mp4'
    with write_video(path, rate) as append:
        append(np.zeros((16, 16, 3), np.uint8))
    assert VideoFile(str(path)).rate == pytest.approx(rate, rel=1e-3)


def test_an_interrupted_video_leaves_the_one_before(tmp_path):
    path = make_video(tmp_path / 'a.mp4')
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), write_video(path, 10) as append:
        append(grey(2)[1])
        raise KeyboardInterrupt
    assert path.read_bytes() == before and os.listdir(tmp_path) == ['a.mp4']


def test_a_video_that_is_not_written_to_its_end_is_one_line(tmp_path, monkeypatch):
    """As on a full disk, of which the writer says nothing."""

    written = []

    class Full(Wrapped):
        kind = cv2.VideoWriter

        def write(self, frame):
            written.append(frame)
            if len(written) < 3:
                self.wrapped.write(frame)

    monkeypatch.setattr(video_files.cv2, 'VideoWriter', Full)
    with pytest.raises(UserError, match=r"a\.mp4' could not be written completely"), write_video(
            tmp_path / 'a.mp4', 10) as append:
        for frame in grey(5):
            append(frame)
    assert not os.listdir(tmp_path)


def test_without_an_encoder_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(video_files, '_CODEC', 'avc1')  # which OpenCV's wheels do not encode
    with pytest.raises(UserError, match=r"can't write '.*a\.mp4' as an MPEG-4 video"), write_video(
            tmp_path / 'a.mp4', 10) as append:
        append(grey(1)[0])
    assert not os.listdir(tmp_path)
