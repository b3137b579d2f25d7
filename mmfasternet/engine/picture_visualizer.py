"""Pictures of objects that can be read: a colour for each class, thin lines, small images enlarged."""

from typing import Any, List, Optional, Sequence, Tuple

import cv2
import numpy as np
from mmdet.structures.mask import bitmap_to_polygon
from mmdet.visualization import DetLocalVisualizer
from mmdet.visualization.palette import get_palette

from mmfasternet.registry import VISUALIZERS

Color = Tuple[int, int, int]
#: Ten colours, RGB, that people with a colour vision deficiency can tell apart: after Okabe and Ito, as seaborn's
#: 'colorblind' orders and completes them.
PALETTE: List[Color] = [
    (1, 115, 178), (222, 143, 5), (2, 158, 115), (204, 120, 188), (236, 225, 51),
    (213, 94, 0), (86, 180, 233), (251, 175, 228), (202, 145, 97), (148, 148, 148)]

_SIDE = 640  # pixels; small images are enlarged by the largest whole factor that fits
_LINE, _HALO, _POINTS = 1.6, 3., 8  # line width, width of the dark line below it, font size


def class_colors(classes: Optional[Sequence[str]], palette: Any, count: int) -> List[Color]:
    """The colours of classes: the dataset's if they were made for its classes, else ours.

    MMDetection's datasets keep their own palette, whatever classes a config
    has: of COCO's 80 colours, the first four are a red and three that look
    alike.

    Args:
        classes: Their names; None if they are not known.
        palette: As in a dataset's ``metainfo``: a list of RGB, the name of one
            of MMDetection's, or None.
        count: How many colours are needed at least.
    """
    count = max(count, len(classes or ()))
    of_others = palette in (None, 'random') or isinstance(palette, (list, tuple)) and len(palette) != count
    if of_others:
        return PALETTE if count <= len(PALETTE) else get_palette('random', count)
    return get_palette(list(palette) if isinstance(palette, tuple) else palette, count)


def _bitmaps(masks: Any) -> np.ndarray:
    return (masks.to_ndarray() if hasattr(masks, 'to_ndarray') else np.asarray(masks)).astype(bool)


def _corner(mask: np.ndarray) -> Tuple[int, int]:
    """The upper left corner of a mask's box: x and y."""
    rows, columns = np.nonzero(mask)
    return (columns.min(), rows.min()) if len(rows) else (0, 0)


@VISUALIZERS.register_module()
class PictureVisualizer(DetLocalVisualizer):
    """MMDetection's visualizer with distinct colours and thin lines; small images are enlarged before drawing.

    Args:
        name, kwargs: See :class:`mmdet.visualization.DetLocalVisualizer`.

    Attributes:
        enlarges: Whether small images are enlarged.
    """

    def __init__(self, name: str = 'visualizer', **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.enlarges = True
        self._times = 1

    def add_datasample(self, name: str, image: np.ndarray, data_sample: Any = None, *args: Any, **kwargs: Any) -> None:
        """See :class:`mmdet.visualization.DetLocalVisualizer`."""
        # Maps of a segmentation belong to the image's own size.
        by_pixel = any(f'{kind}_{what}_seg' in (data_sample or ()) for kind in ('gt', 'pred')
                       for what in ('sem', 'panoptic'))
        self._times = max(_SIDE // max(image.shape[:2]), 1) if self.enlarges and not by_pixel else 1
        if self._times > 1:
            image = cv2.resize(image, None, fx=self._times, fy=self._times, interpolation=cv2.INTER_CUBIC)
        super().add_datasample(name, image, data_sample, *args, **kwargs)

    def _draw_instances(self, image: np.ndarray, instances: Any, classes: Optional[List[str]],
                        palette: Any) -> np.ndarray:
        self.set_image(image)
        labels = [int(label) for label in instances.labels]
        colors = class_colors(classes, palette, max(labels, default=0) + 1)
        of_objects = [colors[label] for label in labels]
        masks: List[np.ndarray] = list(_bitmaps(instances.masks)) if 'masks' in instances else []
        self._outline(masks, of_objects)
        boxes = np.asarray(instances.bboxes if 'bboxes' in instances else [], dtype=float).reshape(-1, 4)
        if boxes.any():
            # They end with the picture.
            inside = (boxes * self._times).clip(0, np.tile(image.shape[1::-1], 2) - 1)
            self.draw_bboxes(inside, edge_colors=of_objects, line_widths=_LINE, alpha=.8)
            corners = boxes[:, :2]
        else:  # of detectors without boxes, such as SOLO
            corners = np.array([_corner(mask) for mask in masks]).reshape(-1, 2)
        for index, (label, (left, top)) in enumerate(zip(labels, corners * self._times)):
            if 'label_names' in instances:
                text = str(instances.label_names[index])
            else:
                text = classes[label] if classes else f'class {label}'
            if 'scores' in instances:
                text += f' {float(instances.scores[index]):.2f}'
            self._write(text, left, top, of_objects[index], image.shape)
        return self.get_image()

    def _outline(self, masks: Sequence[np.ndarray], colors: Sequence[Color]) -> None:
        """Draw outlines of masks, bright ones on dark ones: they are seen on any image."""
        polygons, edges = [], []
        for bitmap, color in zip(masks, colors):
            found = [(contour.reshape(-1, 2) + .5) * self._times for contour in bitmap_to_polygon(bitmap)[0]]
            polygons += found
            edges += [color] * len(found)
        if polygons:
            self.draw_polygons(polygons, edge_colors='k', line_widths=_HALO, alpha=.6)
            self.draw_polygons(polygons, edge_colors=edges, line_widths=_LINE, alpha=1.)

    def _write(self, text: str, left: float, top: float, color: Color, shape: Sequence[int]) -> None:
        """Write a text above a box, or into it where there is no room."""
        height = 2. * _POINTS
        position = np.array([min(max(left, 0), shape[1] - 1), min(max(top, 0), shape[0] - 1)])
        is_bright = np.dot(color, (.299, .587, .114)) > 128
        self.draw_texts(text, position, colors='k' if is_bright else 'w', font_sizes=_POINTS,
                        vertical_alignments='bottom' if top > height else 'top',
                        bboxes=dict(facecolor=tuple(channel / 255 for channel in color), alpha=.9, pad=.8,
                                    edgecolor='none'))
