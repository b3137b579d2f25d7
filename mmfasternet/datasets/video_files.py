"""Video files, frame by frame."""

import logging
import math
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, Optional

import cv2
import numpy as np
from mmengine.logging import print_log

from mmfasternet.errors import DataError, UserError
from mmfasternet.files import atomic_path

#: What is taken for a video, animated GIFs among them.
VIDEO_SUFFIXES = ('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.ts', '.wmv', '.flv', '.gif')
#: Of the video that is written.
SUFFIX = '.mp4'
_CODEC = 'mp4v'  # MPEG-4 part 2: OpenCV's wheels have no encoder of H.264
_USUAL_RATE = 25.


def is_video(path: str) -> bool:
    """Whether a file is a video, by its suffix."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES and Path(path).is_file()


class VideoFile:
    """A video that is read once, from beginning to end.

    It does not use mmcv's ``VideoReader``, which seeks if OpenCV's position is
    not the frame number, as in videos with a varying frame rate.

    Args:
        path: Its file.

    Attributes:
        rate: Frames per second; 25 if the file does not say.
        length: Number of frames according to the file, which may be wrong;
            None if it does not say.

    Raises:
        DataError: If it can't be opened or its first frame can't be decoded.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(path)
        rate, length = (self._capture.get(key) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.length: Optional[int] = int(length) if 0 < length < 2**31 else None
        found, self._first = self._capture.read()
        if not found:
            if not Path(path).stat().st_size:
                raise DataError(f"video '{path}' is empty. Download or record it again")
            problem = "can't decode a frame of" if self._capture.isOpened() else "can't open"
            raise DataError(f"OpenCV {cv2.__version__} {problem} video '{path}'. If a player can show it, convert it, "
                            'for example to H.264')
        self.rate = rate
        if not (math.isfinite(rate) and 0 < rate <= 1000):
            self.rate = _USUAL_RATE
            print_log(f"video '{path}' has no frame rate: {_USUAL_RATE:.0f} frames per second are assumed", 'current',
                      logging.WARNING)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Its frames, BGR ``(H, W, 3)`` of uint8."""
        frame, count = self._first, 0
        try:
            while frame is not None:
                yield frame
                count += 1
                frame = self._capture.read()[1]
        finally:
            self._capture.release()
        if self.length and count < self.length:
            print_log(f"video '{self.path}' ends after {count} of {self.length} frames: the rest can't be "
                      'decoded', 'current', logging.WARNING)


@contextmanager
def write_video(path: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends a frame to a video; the file appears once it is complete.

    Args:
        path: The file, ``.mp4``; the codec is MPEG-4.
        rate: Frames per second.

    Raises:
        UserError: If it can't be written, or OpenCV has no encoder.
    """
    rate = round(rate, 3 if rate < 65 else 2 if rate < 655 else 1)  # MPEG-4 takes fractions of numbers below 65536
    with atomic_path(path) as unfinished:
        part = unfinished.with_name(unfinished.name + SUFFIX)  # OpenCV goes by the suffix
        writer, count = cv2.VideoWriter(), 0

        def append(frame: np.ndarray) -> None:
            nonlocal count
            height, width = frame.shape[:2]
            # Of an odd size, the encoder would cut off a row or a column.
            frame = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            if not count and not writer.open(str(part), cv2.VideoWriter.fourcc(*_CODEC), rate, frame.shape[1::-1]):
                part.touch()  # says what is wrong with the folder, if anything is
                raise UserError(f"OpenCV {cv2.__version__} can't write '{path}' as an MPEG-4 video. The packages "
                                'opencv-python and opencv-python-headless can')
            writer.write(frame)
            count += 1

        try:
            yield append
            writer.release()
            # The writer says nothing of a full disk.
            if cv2.VideoCapture(str(part)).get(cv2.CAP_PROP_FRAME_COUNT) != count:
                raise UserError(f"'{path}' could not be written completely. Check the free disk space")
            part.replace(unfinished)
        finally:
            writer.release()
            part.unlink(missing_ok=True)
