import os

import pytest

from mmfasternet.deploy.export.manifest import MANIFEST, Manifest, Part, fingerprint
from mmfasternet.errors import UserError
from tests.conftest import UNREADABLE

CFG = dict(type='MaskRCNN', backbone=dict(type='FasterNet', arch='t0', init_cfg=None), test_cfg=dict(score_thr=.05),
           roi_head=dict(bbox_head=dict(num_classes=80, loss_cls=dict(type='CrossEntropyLoss'))))


def changed(*keys, value):
    def change(node, keys):
        return dict(node, **{keys[0]: change(node[keys[0]], keys[1:]) if keys[1:] else value})
    return change(CFG, keys)


def test_the_fingerprint_is_of_the_layers():
    own = fingerprint(CFG)
    assert own == fingerprint(changed('test_cfg', value=dict(score_thr=.5)))
    assert own == fingerprint(changed('backbone', 'init_cfg', value=dict(type='Pretrained')))
    assert own == fingerprint(changed('roi_head', 'bbox_head', 'loss_cls', value=dict(type='FocalLoss')))
    assert own != fingerprint(changed('backbone', 'arch', value='t1'))
    assert own != fingerprint(changed('roi_head', 'bbox_head', 'num_classes', value=3))


def test_round_trip(tmp_path):
    (tmp_path / 'dense.onnx').touch()
    manifest = Manifest.of('onnx', [Part('dense', 'dense.onnx', [['map_0'], ['head_0_0']])], CFG)
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest


@pytest.mark.parametrize('content', ['', '{', '[]', '{"format": "onnx"}', '{"parts": [{"name": 1}]}',
                                     '{"format": "onnx", "model": null, "versions": {}, "parts": [{"name": "dense", '
                                     '"file": null, "outputs": []}]}'])
def test_a_broken_manifest_is_named(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(UserError, match="export.json' can't be read"):
        Manifest.read(tmp_path)


@pytest.mark.skipif(not os.path.exists(UNREADABLE), reason='Linux has a file whose first bytes nobody can read')
def test_what_the_system_says_is_not_taken_for_a_broken_manifest(tmp_path):
    (tmp_path / MANIFEST).symlink_to(UNREADABLE)
    with pytest.raises(UserError, match="export.json' can't be read: Input/output error$"):
        Manifest.read(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match='holds no export.json'):
        Manifest.read(tmp_path)
    Manifest.of('onnx', [Part('dense', 'dense.onnx', [])], None).write(tmp_path)
    with pytest.raises(UserError, match='dense.onnx, which is missing'):
        Manifest.read(tmp_path)
