import pytest
from mmengine.config import Config

from mmfasternet.benchmark.complexity import count_as_table_4, count_complexity
from mmfasternet.benchmark.paper import TABLE_4
from mmfasternet.errors import UserError
from tests.conftest import ROOT

# Table 8: parameters and multiply-adds of the classifiers, and the digits that the paper prints of them.
CLASSIFIERS = dict(
    t0=(3905500, 335422720, 3.9, .34), t1=(7595368, 850511872, 7.6, .85), t2=(14982888, 1904334848, 15.0, 1.90),
    s=(31181032, 4549740544, 31.1, 4.55), m=(53521464, 8721938432, 53.5, 8.72), l=(93465192, 15494383616, 93.4, 15.49))
# Multiply-adds of Mask R-CNN at 1280 x 800 with 1000 RoIs in the box and 100 in the mask head.
DETECTORS = {
    's': dict(backbone=92798976000, neck=54067200000, rpn_head=50615792640, total=264772080640,
              **{'bbox head': 14304256000, 'mask head': 52985856000}),
    'm': dict(backbone=177942528000, total=350407152640),
    'l': dict(backbone=316145664000, total=490084848640),
}
PARAMETERS = dict(s=48989936, m=71228448, l=110866416)


def counted(cfg, size=None):
    return {row.part: row for row in count_complexity(cfg, size)}


def config(name):
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


@pytest.mark.parametrize('arch', list(CLASSIFIERS))
def test_classifiers_are_table_8s(arch):
    parameters, multiply_adds, printed_parameters, printed_multiply_adds = CLASSIFIERS[arch]
    total = counted(config(f'fasternet_{arch}_in1k'))['total']
    assert (total.parameters, total.multiply_adds) == (parameters, multiply_adds)
    assert abs(parameters / 1e6 - printed_parameters) < 0.1  # the paper cuts off some, such as 31.18 -> 31.1
    assert round(multiply_adds / 1e9, 2) == printed_multiply_adds


@pytest.mark.slow
@pytest.mark.parametrize('arch', list(DETECTORS))
def test_detectors(arch):
    parts = counted(config(f'mask_rcnn_fasternet_{arch}_1x_coco'))
    assert {name: parts[name].multiply_adds for name in DETECTORS[arch]} == DETECTORS[arch]
    assert parts['total'].parameters == PARAMETERS[arch]
    assert sum(row.parameters for name, row in parts.items() if name != 'total') == PARAMETERS[arch]


@pytest.mark.slow
@pytest.mark.parametrize('name', list(TABLE_4))
def test_detectors_are_table_4s(name):
    published = TABLE_4[name]
    total = count_as_table_4(config(published.config.removesuffix('.py')))
    assert total.parameters / 1e6 == pytest.approx(published.parameters, abs=0.06)
    assert round(total.multiply_adds / 1e9) == published.flops


@pytest.mark.parametrize('base, parts', [
    ('retinanet/retinanet_r50_fpn_1x_coco', ['backbone', 'neck', 'bbox_head', 'total']),
    ('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco',
     ['backbone', 'neck', 'rpn_head', 'bbox head 1', 'bbox head 2', 'bbox head 3', 'total']),
    ('rtmdet/rtmdet-ins_tiny_8xb32-300e_coco', ['backbone', 'neck', 'bbox_head', 'total']),
])
def test_other_detectors(tmp_path, base, parts):
    (tmp_path / 'config.py').write_text(f"_base_ = 'mmdet::{base}.py'\n")
    rows = counted(Config.fromfile(tmp_path / 'config.py'), (64, 64))
    assert list(rows) == parts and all(row.multiply_adds > 0 for row in rows.values())


def test_four_times_the_pixels_are_four_times_the_multiply_adds():
    cfg = config('fasternet_t0_in1k')
    small, large = (counted(cfg, size)['backbone'].multiply_adds for size in ((64, 64), (64, 256)))
    assert large == 4 * small


def test_a_detector_computes_on_padded_sides():
    cfg = config('mask_rcnn_fasternet_t0_shapes')
    assert count_complexity(cfg, (16, 33)) == count_complexity(cfg, (32, 64))
    assert count_as_table_4(cfg, (16, 33)) == count_as_table_4(cfg, (32, 64))


@pytest.mark.parametrize('size, reason', [((16, 20), '[Kk]ernel'), ((10**7, 10**7), 'memory')])
def test_what_cannot_be_computed_is_one_line(size, reason):
    height, width = size
    with pytest.raises(UserError, match=rf"^the model of '\S+' can't compute an image of {height} x {width} pixels: "
                                        rf'RuntimeError: .*{reason}'):
        count_complexity(config('fasternet_t0_in1k'), size)
