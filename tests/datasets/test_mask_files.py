import cv2
import numpy as np
import pytest
from PIL import Image

from mmfasternet.datasets.mask_files import image_size, piece_of, pieces_of, read_label_map, read_mask
from mmfasternet.errors import DataError

LABELS = np.zeros((20, 30), np.int64)
LABELS[2:5, 3:9], LABELS[2:5, 9], LABELS[19, 0], LABELS[0, 29] = 1, 2, 200, 2


@pytest.mark.parametrize('name, dtype, highest', [
    ('a.png', np.uint8, 255), ('a.png', np.uint16, 65535), ('a.tif', np.uint8, 255), ('a.tif', np.uint16, 65535),
    ('a.tif', np.int32, 2**31 - 1), ('a.tif', np.float32, 70000), ('a.bmp', np.uint8, 255),
])
def test_label_maps_keep_their_values(tmp_path, name, dtype, highest):
    labels = np.where(LABELS == 200, highest, LABELS).astype(dtype)
    assert cv2.imwrite(str(tmp_path / name), labels)
    np.testing.assert_array_equal(read_label_map(tmp_path / name), labels)


def test_a_palette_has_its_indices(tmp_path):
    image = Image.fromarray(LABELS.astype(np.uint8))
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(tmp_path / 'a.png')
    np.testing.assert_array_equal(read_label_map(tmp_path / 'a.png'), LABELS)


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16'])
def test_a_mask_is_what_is_not_black(tmp_path, mode):
    mask = LABELS > 0
    image = Image.fromarray((mask * 255).astype(np.uint16 if mode == 'I;16' else np.uint8))
    if mode == 'P':
        image.putpalette([0, 0, 0] + [80, 0, 9] * 255)
    elif mode != 'I;16':
        image = image.convert(mode)
    image.save(tmp_path / 'a.png')
    with Image.open(tmp_path / 'a.png') as written:
        assert written.mode == mode
    found = read_mask(tmp_path / 'a.png')
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)


def test_pieces_are_the_values_with_their_pixels():
    found = dict(pieces_of(LABELS.astype(np.uint16)))
    assert list(found) == [1, 2, 200]
    for value, piece in found.items():
        whole = np.zeros(LABELS.shape, bool)
        height, width = piece.pixels.shape
        whole[piece.y:piece.y + height, piece.x:piece.x + width] = piece.pixels
        np.testing.assert_array_equal(whole, LABELS == value)
        assert piece.pixels.any(axis=0)[[0, -1]].all() and piece.pixels.any(axis=1)[[0, -1]].all()
        alone = piece_of((LABELS == value).astype(np.uint8) * 7)
        assert (alone.x, alone.y) == (piece.x, piece.y)
        np.testing.assert_array_equal(alone.pixels, piece.pixels)
    assert list(pieces_of(np.zeros((3, 4), np.uint8))) == [] and piece_of(np.zeros((3, 4))) is None


@pytest.mark.parametrize('orientation, size', [(1, (20, 30)), (3, (20, 30)), (6, (30, 20)), (8, (30, 20))])
def test_the_size_of_an_image_is_that_which_is_loaded(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', (30, 20)).save(tmp_path / 'a.jpg', exif=exif)
    assert image_size(tmp_path / 'a.jpg') == size == cv2.imread(str(tmp_path / 'a.jpg')).shape[:2]
    for name in ('a.png', 'a.webp'):  # the last one is turned by some releases of OpenCV
        Image.new('RGB', (30, 20)).save(tmp_path / name, exif=exif)
        assert image_size(tmp_path / name) == cv2.imread(str(tmp_path / name)).shape[:2]


@pytest.mark.parametrize('read', [read_mask, read_label_map])
def test_files_that_cannot_be_used_are_named(tmp_path, read):
    cv2.imwrite(str(tmp_path / 'whole.png'), np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8))
    (tmp_path / 'cut.png').write_bytes((tmp_path / 'whole.png').read_bytes()[:3000])
    (tmp_path / 'text.png').write_text('no image')
    cv2.imwrite(str(tmp_path / 'lossy.jpg'), LABELS.astype(np.uint8))
    Image.fromarray(LABELS.astype(np.uint8)).save(tmp_path / 'stack.tif', save_all=True,
                                                  append_images=[Image.new('L', (30, 20), 3)])
    for name, part in (('gone.png', 'does not exist'), ('stack.tif', 'has 2 pages'), ('cut.png', 'truncated'),
                       ('text.png', 'cannot identify'), ('lossy.jpg', 'is a JPEG'), ('.', 'Is a directory')):
        with pytest.raises(DataError, match=part) as error:
            read(tmp_path / name)
        assert f"'{tmp_path / name}'" in str(error.value) and '\n' not in str(error.value)


def test_colours_are_no_label_map(tmp_path):
    Image.new('RGB', (30, 20)).save(tmp_path / 'a.png')
    with pytest.raises(DataError, match=r"a\.png' holds colours \(RGB\)"):
        read_label_map(tmp_path / 'a.png')
    with pytest.raises(DataError, match="image '.*b.png' does not exist"):
        image_size(tmp_path / 'b.png')
