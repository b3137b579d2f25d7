import pytest
import torch

from mmfasternet.benchmark.roofline import least_times
from mmfasternet.engine.config import load_config
from tests.conftest import ROOT

CONFIG = ROOT / 'configs' / 'mask_rcnn_fasternet_s_1x_coco.py'
#: Multiply-adds of Mask R-CNN with FasterNet-S at 800 x 1280 pixels.
MULTIPLY_ADDS = {'backbone': 92798976000, 'neck': 54067200000, 'RPN': 50615792640, 'RoI box': 14304256000,
                 'RoI mask': 52985856000}


def test_bounds_by_operations_and_by_bytes():
    cfg = load_config(str(CONFIG))
    by_operations = least_times(cfg, (800, 1280), torch.float16, 500, float('inf'))
    assert by_operations == pytest.approx({part: 2 * count / 500e9 for part, count in MULTIPLY_ADDS.items()})
    by_bytes = least_times(cfg, (800, 1280), torch.float16, float('inf'), 4000)
    layers = ((256 * 49, 1024), (1024, 1024), (1024, 81), (1024, 320))
    numbers = sum(1000 * (inputs + outputs) + inputs * outputs for inputs, outputs in layers)
    assert by_bytes['RoI box'] == pytest.approx(2 * numbers / 4000e6)
    both = least_times(cfg, (800, 1280), torch.float16, 500, 4000)
    assert all(both[part] >= max(by_operations[part], by_bytes[part]) * (1 - 1e-9) for part in MULTIPLY_ADDS)
