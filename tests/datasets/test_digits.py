import json

import numpy as np
import pytest
from mmengine.config import Config
from sklearn.datasets import load_digits

from mmfasternet.checkpoints import recognize
from mmfasternet.checkpoints.reading import read_checkpoint
from mmfasternet.datasets.digits import Digits
from tests.conftest import ROOT

CONFIG = ROOT / 'configs' / 'fasternet_t0_digits.py'
TIMM = """
_base_ = '{config}'
model = dict(
    _delete_=True, type='TimmClassifier', model_name='fasternet_t0', num_classes=10, drop_path_rate=0.,
    loss={{{{_base_.model.head.loss}}}})
"""


def test_a_fifth_is_held_out_of_each_class():
    train, test = Digits('train'), Digits('test')
    assert (len(train), len(test)) == (1437, 360)
    indices = [{data.get_data_info(i)['img_id'] for i in range(len(data))} for data in (train, test)]
    assert not indices[0] & indices[1] and len(indices[0] | indices[1]) == 1797
    counts = np.bincount(test.get_gt_labels(), minlength=10) / np.bincount(load_digits().target)
    assert counts.min() > 0.19 and counts.max() < 0.21
    assert [Digits('test').get_data_info(i)['img_id'] for i in (0, 7)] == [
        test.get_data_info(i)['img_id'] for i in (0, 7)]


def test_images_are_the_digits():
    digits, data = load_digits(), Digits('test')
    row = data.get_data_info(5)
    assert row['img'].shape == (8, 8, 3) and row['img'].dtype == np.uint8
    np.testing.assert_allclose(row['img'][..., 1] / 255 * 16, digits.images[row['img_id']], atol=0.04)
    assert row['gt_label'] == digits.target[row['img_id']] and data.CLASSES[row['gt_label']] == str(row['gt_label'])


def test_another_split_is_refused():
    with pytest.raises(ValueError, match='split must be'):
        Digits('val')


@pytest.mark.slow
def test_digits_are_learnt_as_well_as_by_timms_network(run_tool, tmp_path):
    """97 % of the held-out fifth, and timm's FasterNet by the same recipe within a point."""
    (tmp_path / 'timm.py').write_text(TIMM.format(config=CONFIG))
    accuracy = []
    for config in (CONFIG, tmp_path / 'timm.py'):
        work_dir = tmp_path / config.stem
        result = run_tool('train', config, '--work-dir', work_dir, '--cfg-options', 'randomness.seed=0')
        assert result.code == 0, result.err
        scalars = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
        accuracy.append(json.loads(scalars[-1])['accuracy/top1'])
    assert accuracy[0] >= 97 and abs(accuracy[0] - accuracy[1]) <= 1, accuracy
    epochs = Config.fromfile(CONFIG).max_epochs
    weights = read_checkpoint(str(tmp_path / CONFIG.stem / f'epoch_{epochs}.pth'))['state_dict']
    assert recognize(weights).model == 'classifier' and recognize(weights).num_classes == 10
