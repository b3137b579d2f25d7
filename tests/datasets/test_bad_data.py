"""What data of strangers look like: trained on, or refused by one line that names the file."""

import codecs
import copy
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from mmfasternet.datasets.shapes import make_shapes_coco
from tests.conftest import SHAPES_CONFIG, data_options

QUICK = ['train_dataloader.batch_size=2', 'train_cfg.max_epochs=1', 'param_scheduler=[]', 'val_cfg=None',
         'val_dataloader=None', 'val_evaluator=None', 'default_hooks.checkpoint=None', 'train_dataloader.num_workers=0']
SIZE = 64


class Data:
    """A dataset of two images to spoil: ``content`` is written as its annotation file."""

    def __init__(self, root):
        self.root = make_shapes_coco(root, num_train=2, num_val=1, size=SIZE, seed=1)
        self.content = json.loads(self.ann_file.read_text())

    @property
    def ann_file(self):
        return self.root / 'annotations' / 'instances_train.json'

    @property
    def annotation(self):
        """The first of the second image."""
        return next(a for a in self.content['annotations'] if a['image_id'] == self.content['images'][1]['id'])

    def path(self, index=1):
        return self.root / 'train' / self.content['images'][index]['file_name']

    def image(self):
        return Image.open(self.path()).convert('RGB')

    def rename(self, name):
        self.path().rename(self.path().with_name(name))
        self.content['images'][1]['file_name'] = name

    def replace(self, image, suffix='.png', **options):
        self.rename(f'second{suffix}')
        image.save(self.path(), **options)
        self.content['images'][1].update(width=image.width, height=image.height)

    def write(self):
        if isinstance(self.content, bytes):
            self.ann_file.write_bytes(self.content)
        else:
            self.ann_file.write_text(json.dumps(self.content))


KINDS = {}


def kind(refused=None):
    """Register a way to spoil data, with what the line says that refuses them, or None if they are trained on."""

    def register(spoil):
        KINDS[spoil.__name__] = SimpleNamespace(spoil=spoil, refused=refused)
        return spoil

    return register


@kind(r'second\.png.* is broken \(the file is empty\)')
def zero_bytes(data):
    data.rename('second.png')
    data.path().write_bytes(b'')


@kind(r'second\.png.* is broken')
def truncated_png(data):
    data.replace(data.image())
    data.path().write_bytes(data.path().read_bytes()[:-60])


@kind(r'second\.jpg.* is broken')
def truncated_jpeg(data):
    data.replace(data.image(), '.jpg')
    data.path().write_bytes(data.path().read_bytes()[:-60])


@kind(r'second\.jpg.* is broken')
def web_page_as_jpeg(data):
    data.rename('second.jpg')
    data.path().write_text('<html>404</html>')


@kind(r"second\.png.* can't be read: Is a directory")
def folder_as_image(data):
    data.rename('second.png')
    data.path().unlink()
    data.path().mkdir()


@kind(r'gone\.png.* does not exist')
def missing_image(data):
    data.content['images'][1]['file_name'] = 'gone.png'


@kind(r'gone\.png.* does not exist')
def missing_first_image(data):
    data.content['images'][0]['file_name'] = 'gone.png'


@kind(r'second\.png.* does not exist')
def dangling_link(data):
    data.rename('second.png')
    data.path().unlink()
    data.path().symlink_to('nowhere.png')


@kind()
def cmyk_jpeg(data):
    data.replace(data.image().convert('CMYK'), '.jpg')


@kind()
def progressive_jpeg(data):
    data.replace(data.image(), '.jpg', progressive=True)


@kind()
def rotated_by_exif(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    data.replace(data.image(), '.jpg', exif=exif)


@kind()
def sixteen_bits(data):
    data.replace(Image.fromarray(np.asarray(data.image().convert('L')).astype(np.uint16) * 257))


@kind(r'second\.tif.* is broken \(failed to load')
def float_tiff(data):
    data.replace(Image.fromarray(np.asarray(data.image().convert('L')).astype(np.float32)), '.tif')


@kind()
def one_bit(data):
    data.replace(data.image().convert('1'))


@kind()
def grayscale_png(data):
    data.replace(data.image().convert('L'))


@kind()
def grayscale_jpeg(data):
    data.replace(data.image().convert('L'), '.jpg')


@kind()
def alpha(data):
    data.replace(data.image().convert('RGBA'))


@kind()
def grayscale_and_alpha(data):
    data.replace(data.image().convert('LA'))


@kind()
def palette(data):
    data.replace(data.image().convert('P'))


@kind()
def bmp(data):
    data.replace(data.image(), '.bmp')


@kind()
def wrong_suffix(data):
    data.replace(data.image(), '.jpg', format='PNG')


@kind()
def animated_png(data):
    data.replace(data.image(), save_all=True, append_images=[data.image().rotate(90)])


@kind()
def animated_gif(data):
    data.replace(data.image(), '.gif', save_all=True, append_images=[data.image().rotate(90)])


@kind()
def animated_webp(data):
    data.replace(data.image(), '.webp', save_all=True, append_images=[data.image().rotate(90)])


@kind()
def tiff_of_two_pages(data):
    data.replace(data.image(), '.tif', save_all=True, append_images=[data.image().rotate(90)])


@kind()
def one_pixel(data):
    data.replace(data.image().resize((1, 1)))


@kind(r'second\.png.*20000 x 10 px.*pipeline')
def long_strip(data):
    data.replace(data.image().resize((20000, 10)))


@kind()
def not_the_size_of_the_file(data):
    data.content['images'][1].update(width=48, height=80)


@kind()
def unicode_name(data):
    data.rename('图像-ü.png')


@kind()
def spaces_in_name(data):
    data.rename('a b  c.png')


@kind()
def image_in_a_subfolder(data):
    (data.root / 'train' / 'sub').mkdir()
    data.path().rename(data.root / 'train' / 'sub' / 'second.png')
    data.content['images'][1]['file_name'] = 'sub/second.png'


@kind(r'instances_train\.json.*annotations\[\d+\]\.segmentation is')
def no_polygons(data):
    data.annotation['segmentation'] = []


@kind()
def empty_polygon(data):
    data.annotation['segmentation'] = [[]]


@kind()
def polygon_of_two_points(data):
    data.annotation['segmentation'] = [[1, 1, 9, 9]]


@kind()
def polygon_of_odd_length(data):
    data.annotation['segmentation'] = [[1, 1, 9, 1, 9, 9, 4]]


@kind()
def polygon_that_crosses_itself(data):
    data.annotation['segmentation'] = [[5, 5, 40, 40, 40, 5, 5, 40]]


@kind()
def polygon_outside_of_the_image(data):
    data.annotation.update(segmentation=[[-50, -50, 500, -50, 500, 500]], bbox=[-50, -50, 550, 550])


@kind()
def box_outside_of_the_image(data):
    data.annotation['bbox'] = [100, 100, 20, 20]


@kind(r'instances_train\.json.*annotations\[\d+\]\.segmentation has the polygon .* does not consist of numbers')
def polygon_of_words(data):
    data.rename('second.png')
    data.annotation['segmentation'] = [['left', 'right'] * 3]


@kind(r'instances_train\.json.*annotations\[\d+\] has no segmentation')
def no_segmentation(data):
    del data.annotation['segmentation']


def mask():
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[10:30, 5:40] = 1
    return mask


@kind()
def run_lengths(data):
    data.annotation['segmentation'] = dict(size=[SIZE, SIZE], counts=[650, 20, SIZE * SIZE - 670])


@kind()
def compressed_run_lengths(data):
    encoded = mask_utils.encode(np.asfortranarray(mask()))
    data.annotation['segmentation'] = dict(size=[SIZE, SIZE], counts=encoded['counts'].decode())


@kind()
def crowd(data):
    data.annotation.update(iscrowd=1, segmentation=dict(size=[SIZE, SIZE], counts=[650, 20, SIZE * SIZE - 670]))


@kind(r'instances_train\.json.*annotations\[\d+\]\.segmentation is a run-length encoding of size \[9, 9\]')
def run_lengths_of_another_size(data):
    data.annotation['segmentation'] = dict(size=[9, 9], counts=[40, 20, 21])


@kind()
def box_without_area(data):
    data.annotation.update(bbox=[5, 5, 0, 0], area=0)


@kind()
def negative_box(data):
    data.annotation['bbox'] = [30, 30, -9, -9]


@kind(r'instances_train\.json.*annotations\[\d+\]\.bbox is')
def nan_in_a_box(data):
    data.annotation['bbox'] = [1, 1, float('nan'), 9]


@kind(r'instances_train\.json.*annotations\[\d+\]\.bbox is')
def text_in_a_box(data):
    data.annotation['bbox'] = [1, 1, '9', 9]


@kind(r'instances_train\.json.*annotations\[\d+\] has no bbox')
def no_box(data):
    del data.annotation['bbox']


@kind(r'instances_train\.json.*2 annotations with the id')
def duplicate_annotation_ids(data):
    data.content['annotations'].append(copy.deepcopy(data.annotation))


@kind(r'instances_train\.json.*2 images with the id')
def duplicate_image_ids(data):
    data.content['images'].append(dict(data.content['images'][0]))


@kind(r'instances_train\.json.*2 categories with the name')
def duplicate_category_names(data):
    data.content['categories'].append(dict(id=99, name='circle'))


@kind()
def unknown_category(data):
    data.annotation['category_id'] = 77


@kind()
def unknown_image(data):
    data.annotation['image_id'] = 77


@kind(r'instances_train\.json.*categories in another order')
def categories_in_another_order(data):
    data.content['categories'].reverse()


@kind()
def category_that_is_not_trained(data):
    data.content['categories'].append(dict(id=99, name='hexagon'))
    data.annotation['category_id'] = 99


@kind()
def image_without_objects(data):
    second = data.content['images'][1]['id']
    data.content['annotations'] = [a for a in data.content['annotations'] if a['image_id'] != second]


@kind(r'instances_train\.json.*nothing to train on')
def no_objects_at_all(data):
    data.content['annotations'] = []


@kind()
def no_iscrowd(data):
    for row in data.content['annotations']:
        del row['iscrowd']


@kind(r"instances_train\.json.*annotations\[0\]\.iscrowd is '0', not 0 or 1 \(so are \d+ of \d+\)")
def iscrowd_as_a_text(data):
    for row in data.content['annotations']:
        row['iscrowd'] = '0'


@kind(r'instances_train\.json.*none of its (\d+) objects .*: \1 are crowds\. Fix its annotations')
def nothing_but_crowds(data):
    for row in data.content['annotations']:
        row['iscrowd'] = 1


@kind(r'instances_train\.json.*none of its (\d+) objects .*: \1 have an area of 0 or less\.')
def areas_of_zero(data):
    for row in data.content['annotations']:
        row['area'] = 0


@kind(r'instances_train\.json.*none of its (\d+) objects .*: \1 have no polygon of three points')
def nothing_but_lines(data):
    for row in data.content['annotations']:
        row['segmentation'] = [[1, 1, 9, 9]]


@kind(r'instances_train\.json.*annotations\[\d+\]\.segmentation has its points as pairs')
def polygon_of_pairs(data):
    data.annotation['segmentation'] = [[5, 5], [40, 5], [40, 40]]


@kind(r'instances_train\.json.*annotations\[\d+\]\.segmentation has the points .* as pairs')
def polygons_of_pairs(data):
    data.annotation['segmentation'] = [[[5, 5], [40, 5], [40, 40]]]


@kind()
def ids_as_texts(data):
    for key in ('images', 'annotations', 'categories'):
        for row in data.content[key]:
            row.update({field: str(row[field]) for field in ('id', 'image_id', 'category_id') if field in row})


@kind(r"instances_train\.json.*images\[0\]\.id is the string '1', but others are numbers")
def ids_of_two_kinds(data):
    data.content['images'][0]['id'] = '1'


@kind()
def byte_order_mark(data):
    data.content = codecs.BOM_UTF8 + json.dumps(data.content).encode()


@kind(r"instances_train\.json.*has no list 'images'")
def no_images(data):
    data.content['images'] = []


@kind(r"instances_train\.json.*has no list 'annotations'")
def no_list_of_annotations(data):
    del data.content['annotations']


@kind(r"instances_train\.json.*has no list 'images'")
def list_at_the_top(data):
    data.content = [data.content]


@kind(r"instances_train\.json.*can't be read as JSON")
def truncated_json(data):
    data.content = json.dumps(data.content).encode()[:-30]


@kind(r"instances_train\.json.*can't be read as JSON")
def empty_json(data):
    data.content = b''


@kind(r"instances_train\.json.*can't be read as JSON")
def latin_1_json(data):
    data.content['images'][1]['file_name'] = 'ü.png'
    data.content = json.dumps(data.content, ensure_ascii=False).encode('latin-1')


def train(run_tool, data, work_dir, *options):
    return run_tool('train', SHAPES_CONFIG, '--work-dir', work_dir, '--cfg-options', *data_options(data.root), *QUICK,
                    *options)


@pytest.mark.slow
@pytest.mark.parametrize('name', KINDS)
def test_is_trained_on_or_refused_by_name(run_tool, tmp_path, name):
    data = Data(tmp_path / 'data')
    KINDS[name].spoil(data)
    data.write()
    result = train(run_tool, data, tmp_path / 'work')
    if KINDS[name].refused is None:
        assert result.code == 0, result.err
    else:
        line = result.err.splitlines()[-1]
        assert result.code == 1 and re.match(rf'error: .*{KINDS[name].refused}', line), result.err


@pytest.mark.slow
def test_folder_with_spaces_and_unicode(run_tool, tmp_path):
    data = Data(tmp_path / 'my dätä 数据')
    assert train(run_tool, data, tmp_path / 'my work ü').code == 0


@pytest.mark.slow
def test_a_worker_that_fails_names_the_image_too(run_tool, tmp_path):
    data = Data(tmp_path / 'data')
    KINDS['long_strip'].spoil(data)
    data.write()
    result = train(run_tool, data, tmp_path / 'work', 'train_dataloader.num_workers=1')
    assert result.code == 1 and re.match(rf"error: .*{KINDS['long_strip'].refused}", result.err.splitlines()[-1])
