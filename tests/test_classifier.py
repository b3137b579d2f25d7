"""The same scripts serve a config of MMPretrain's scope."""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image

CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmfasternet.models'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmfasternet.FasterNet', arch=dict(embed_channels=8, depths=(1, 1)), out_indices=(1, ), out_norm=False),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=16, topk=(1, )))
data_preprocessor = dict(num_classes=2, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=32), dict(type='PackInputs')]
dataset = dict(type='CustomDataset', data_root={root!r}, data_prefix='', pipeline=pipeline)
train_dataloader = dict(
    batch_size=8, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dataset)
test_dataloader = dict(
    batch_size=8, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset)
test_evaluator = dict(type='Accuracy', topk=(1, ))
train_cfg = dict(by_epoch=True, max_epochs=6)
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-2))
default_hooks = dict(visualization=dict(type='VisualizationHook'))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)
"""


@pytest.fixture
def config(tmp_path):
    """Dark and bright noise to tell apart."""
    rng = np.random.default_rng(0)
    for name, low in (('bright', 128), ('dark', 0)):
        folder = tmp_path / 'images' / name
        folder.mkdir(parents=True)
        for index in range(8):
            Image.fromarray(rng.integers(low, low + 128, (32, 32, 3), dtype=np.uint8)).save(folder / f'{index}.png')
    path = tmp_path / 'config.py'
    path.write_text(CONFIG.format(root=str(tmp_path / 'images')))
    return path


def test_train_test_and_predict(run_tool, config, tmp_path):
    work = tmp_path / 'work'
    assert run_tool('train', config, '--work-dir', work).code == 0
    weights = work / 'epoch_6.pth'
    for flags in (['--show-dir', tmp_path / 'shown'], ['--tta']):
        result = run_tool('test', config, weights, '--work-dir', work, *flags)
        assert result.code == 0, result.err
        assert re.search(r'accuracy/top1 +│ +100 ', result.out)
    assert {folder.name: len(list(folder.iterdir())) for folder in (tmp_path / 'shown').iterdir()} == dict(
        bright=8, dark=8)  # whose images have the same names
    assert run_tool('test', config, weights, '--work-dir', work, '--out', tmp_path / 'raw.pkl').code == 0
    assert len(pickle.loads((tmp_path / 'raw.pkl').read_bytes())) == 16
    both = run_tool('test', config, weights, '--work-dir', work, '--tta', '--show-dir', tmp_path / 'shown')
    assert both.code == 1 and '--tta and --show-dir' in both.err
    result = run_tool('image_demo', tmp_path / 'images' / 'dark', config, weights, '--out-dir', tmp_path / 'out')
    assert result.code == 0, result.err
    rows = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert len(rows) == 8 and all(row['classes'][0] == 'dark' for row in rows)
    assert re.search(r'0\.png  dark \d\.\d+  bright', result.out)
    assert (tmp_path / 'out' / 'vis' / '0.png').is_file()


def test_classifiers_of_the_authors_and_of_timm_need_no_conversion(run_tool, config, tmp_path):
    text = config.read_text().replace("['mmfasternet.models']", "['mmfasternet.models', 'mmfasternet.models.heads']")
    text = re.sub(r"    neck=.*\n    head=.*\n", """\
    head=dict(type='mmfasternet.FasterNetHead', num_classes=2, in_channels=16, hidden_channels=32,
              act_cfg=dict(type='ReLU'), topk=(1, )))
""", text)
    config.write_text(text)
    result = run_tool('train', config, '--work-dir', tmp_path / 'work')
    assert result.code == 0, result.err
    ours, scores = tmp_path / 'work' / 'epoch_6.pth', []
    for path, to in ((tmp_path / 'official.pth', 'official'), (tmp_path / 'model.safetensors', 'timm')):
        assert run_tool('convert_checkpoint', ours, path, '--to', to).code == 0
    for index, path in enumerate((ours, tmp_path / 'official.pth', tmp_path / 'model.safetensors')):
        out = tmp_path / f'{index}.pkl'
        result = run_tool('test', config, path, '--work-dir', tmp_path / 'work', '--out', out)
        assert re.search(r'accuracy/top1 +│ +100 ', result.out), result.err
        scores.append([row['pred_score'] for row in pickle.loads(out.read_bytes())])
    assert len(scores[0]) == 16 and all(torch.equal(a, b) for rows in scores[1:] for a, b in zip(scores[0], rows))
    result = run_tool('image_demo', tmp_path / 'images' / 'dark', config, path, '--out-dir', tmp_path / 'out')
    assert result.code == 0 and re.search(r'0\.png  (dark|bright|0|1) ', result.out), result.err


def test_a_missing_folder_is_one_line(run_tool, config, tmp_path):
    (tmp_path / 'images').rename(tmp_path / 'elsewhere')
    result = run_tool('train', config, '--work-dir', tmp_path / 'work')
    assert result.code == 1 and result.err.startswith('error: data folder') and "/images'" in result.err
    assert not (tmp_path / 'work').exists()
