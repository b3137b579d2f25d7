"""A generated COCO-format dataset of coloured shapes, for demos and tests."""

import json
import math
from pathlib import Path
from typing import Any, Dict, List, Tuple, Union

import cv2
import numpy as np
from shapely import affinity
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box
from shapely.geometry.base import BaseGeometry

from mmfasternet.errors import ArgumentError
from mmfasternet.files import atomic_folder

CLASSES = ('circle', 'square', 'triangle', 'star')

_SUPERSAMPLING = 4  # images are drawn this much larger, then averaged down: smooth edges
_MIN_VISIBLE = 0.75  # share of a shape that later ones or the image's edge must not hide
_MIN_CONTRAST = 80  # of 255, to what is behind a shape, in one of the three colours at least
_MIN_RADIUS, _MAX_RADIUS = 0.07, 0.2  # of the image's side


def _outline(name: str) -> Polygon:
    """The shape of class ``name``, with its corners on the unit circle."""
    if name == 'circle':
        return Point(0, 0).buffer(1, quad_segs=8)
    corners, inner = dict(square=(4, None), triangle=(3, None), star=(5, 0.5))[name]
    points = []
    for i in range(corners):
        points.append((math.cos(math.tau * i / corners), math.sin(math.tau * i / corners)))
        if inner:
            angle = math.tau * (i + 0.5) / corners
            points.append((inner * math.cos(angle), inner * math.sin(angle)))
    return Polygon(points)


_OUTLINES = {name: _outline(name) for name in CLASSES}


def _parts(geometry: BaseGeometry) -> List[Polygon]:
    polygons = geometry.geoms if isinstance(geometry, MultiPolygon) else [geometry]
    return [p for p in polygons if isinstance(p, Polygon) and p.area >= 1]


def _fill(canvas: np.ndarray, shape: Polygon, color: np.ndarray) -> None:
    # OpenCV puts pixel centres at integers, COCO pixel edges.
    points = np.round(np.array(shape.exterior.coords) * _SUPERSAMPLING - 0.5).astype(np.int32)
    cv2.fillPoly(canvas, [points], color.tolist())


def _seen_color(rng: np.random.Generator, canvas: np.ndarray, shape: Polygon) -> np.ndarray:
    """A random colour that differs from what is behind the shape's middle."""
    x, y = (np.array(shape.centroid.coords[0]) * _SUPERSAMPLING).astype(int)
    side = 2 * _SUPERSAMPLING
    behind = canvas[y - side:y + side, x - side:x + side].reshape(-1, 3).mean(0)  # centres are not at the edge
    while True:
        color = rng.integers(0, 256, 3)
        if np.abs(color - behind).max() >= _MIN_CONTRAST:
            return color


def _draw_clutter(rng: np.random.Generator, canvas: np.ndarray, size: int) -> None:
    """A smooth background with strokes and specks that belong to no class."""
    corners = rng.uniform(40, 215, (2, 2, 3)).astype(np.float32)
    canvas[:] = cv2.resize(corners, canvas.shape[1::-1], interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    for _ in range(rng.integers(3, 9)):
        points = rng.uniform(0, size, (rng.integers(2, 5), 2))
        width, color = rng.uniform(0.4, 1.2), rng.integers(0, 256, 3)
        for start, end in zip(points, points[1:]):
            _fill(canvas, LineString([start, end]).buffer(width), color)
    for _ in range(rng.integers(0, 12)):
        speck = Point(rng.uniform(0, size, 2)).buffer(rng.uniform(1, 2.5), quad_segs=4)
        _fill(canvas, speck, rng.integers(0, 256, 3))


def _place(rng: np.random.Generator, size: int) -> List[Tuple[int, Polygon, BaseGeometry]]:
    """Class index, full shape and visible part of each shape, from back to front."""
    frame = box(0, 0, size, size)
    placed: List[Tuple[int, Polygon, BaseGeometry]] = []
    attempts = rng.integers(2, 8)
    while attempts > 0 or not placed:
        attempts -= 1
        label = int(rng.integers(len(CLASSES)))
        radius = rng.uniform(_MIN_RADIUS, _MAX_RADIUS) * size
        center = rng.uniform(radius / 2, size - radius / 2, 2)
        shape = affinity.scale(_OUTLINES[CLASSES[label]], radius, radius, origin=(0, 0))
        shape = affinity.rotate(shape, rng.uniform(0, 360), origin=(0, 0))
        shape = affinity.translate(shape, *center)
        visible = shape.intersection(frame)
        behind = [(other, full, seen.difference(shape)) for other, full, seen in placed]
        candidates = [*behind, (label, shape, visible)]
        # COCO polygons have no holes, and mostly hidden shapes can't be recognised.
        if all(seen.area >= _MIN_VISIBLE * full.area and not any(p.interiors for p in _parts(seen))
               for _, full, seen in candidates):
            placed = candidates
    return placed


def draw_shapes_image(rng: np.random.Generator, size: int) -> Tuple[np.ndarray, List[Dict[str, Any]]]:
    """Draw one image and describe what is on it.

    Args:
        rng: Source of all randomness.
        size: Height and width in pixels.

    Returns:
        The image, ``(size, size, 3)`` BGR ``uint8``, and one dict for each
        object with the COCO keys ``category_id``, ``bbox`` (x, y, width,
        height in pixels), ``area`` (square pixels), ``segmentation``
        (polygons of the visible part) and ``iscrowd``.
    """
    canvas = np.empty((size * _SUPERSAMPLING, size * _SUPERSAMPLING, 3), np.uint8)
    _draw_clutter(rng, canvas, size)
    objects = []
    for label, shape, visible in _place(rng, size):
        _fill(canvas, shape, _seen_color(rng, canvas, shape))
        parts = _parts(visible)
        x0, y0, x1, y1 = MultiPolygon(parts).bounds
        objects.append(
            dict(
                category_id=label + 1,
                bbox=[round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)],
                area=round(sum(p.area for p in parts), 2),
                segmentation=[np.round(np.array(p.exterior.coords[:-1]), 2).ravel().tolist() for p in parts],
                iscrowd=0))
    image = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    image += rng.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8), objects


def _make_split(folder: Path, annotation_file: Path, count: int, size: int, seed: int) -> None:
    folder.mkdir(parents=True)
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for index in range(count):
        # One generator per image: the first images do not depend on the count.
        image, objects = draw_shapes_image(np.random.default_rng([seed, index]), size)
        name = f'{index:06d}.png'
        (folder / name).write_bytes(cv2.imencode('.png', image)[1].tobytes())  # cv2.imwrite() hides a full disk
        images.append(dict(id=index + 1, file_name=name, height=size, width=size))
        for item in objects:
            annotations.append(dict(id=len(annotations) + 1, image_id=index + 1, **item))
    annotation_file.parent.mkdir(parents=True, exist_ok=True)
    annotation_file.write_text(
        json.dumps(
            dict(
                info=dict(description='Generated shapes', seed=seed),
                images=images,
                annotations=annotations,
                categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)])))


def make_shapes_coco(root: Union[str, Path],
                     num_train: int = 800,
                     num_val: int = 100,
                     size: int = 192,
                     seed: int = 0) -> Path:
    """Write a train and a val split of coloured shapes in COCO format.

    Every image holds 1 to 7 rotated shapes of :data:`CLASSES` that overlap,
    on a background with strokes and specks. The annotations are the exact
    visible polygons. The same arguments give the same files.

    Args:
        root: Folder to make. It holds ``train/``, ``val/`` and
            ``annotations/instances_{train,val}.json`` afterwards.
        num_train: Number of training images. Defaults to 800.
        num_val: Number of validation images. Defaults to 100.
        size: Height and width of the images in pixels. Defaults to 192.
        seed: Seed; the val split draws from another stream. Defaults to 0.

    Returns:
        The folder.

    Raises:
        DataError: If ``root`` exists already.
        UserError: If it can't be written.
        ArgumentError: If a number is out of its range; the message names it.
    """
    root = Path(root)
    for name, value, least in (('num_train', num_train, 1), ('num_val', num_val, 1), ('size', size, 64),
                               ('seed', seed, 0)):
        if value < least:
            raise ArgumentError(f'{name} must be at least {least}, got {value}')
    with atomic_folder(root) as folder:
        for split, count, stream in (('train', num_train, 2 * seed), ('val', num_val, 2 * seed + 1)):
            _make_split(folder / split, folder / 'annotations' / f'instances_{split}.json', count, size, stream)
    return root
