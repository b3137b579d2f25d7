from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmfasternet.config_tree import walk
from mmfasternet.engine.config import class_of, config_digest, is_classifier, load_config
from mmfasternet.errors import UserError
from tests.conftest import ROOT, SHAPES_CONFIG, data_options
from tests.engine.pure_python import pure_python

COCO_CONFIG = str(ROOT / 'configs' / 'mask_rcnn_fasternet_s_1x_coco.py')


def test_work_dir():
    assert load_config(COCO_CONFIG).work_dir == 'work_dirs/mask_rcnn_fasternet_s_1x_coco'
    assert load_config(COCO_CONFIG, {'work_dir': 'elsewhere'}).work_dir == 'elsewhere'
    assert load_config(COCO_CONFIG, {'work_dir': 'elsewhere'}, 'here').work_dir == 'here'


def test_options_and_launcher():
    cfg = load_config(COCO_CONFIG, {'train_dataloader.batch_size': 7}, launcher='pytorch')
    assert cfg.train_dataloader.batch_size == 7 and cfg.launcher == 'pytorch'


@pytest.mark.parametrize('path, options, message', [('configs/none.py', None, 'configs/none.py'),
                                                    (COCO_CONFIG, {'model.neck.in_channels.9': 1}, '--cfg-options'),
                                                    (COCO_CONFIG, {'model.neck.in_channels.0': 64}, 'the whole list'),
                                                    (COCO_CONFIG, {'custom_imports.imports': 'a,b'},
                                                     "so write 'custom_imports.imports=\\[a,b]'")])
def test_bad_arguments_are_named(path, options, message):
    with pytest.raises(UserError, match=message):
        load_config(path, options)


@pytest.mark.parametrize('key, value', [('model', 'x'), ('optim_wrapper', 'SGD'), ('train_cfg', 12)])
def test_a_value_in_the_place_of_a_section_is_named(key, value):
    with pytest.raises(UserError, match=f"^config '\\S+': {key} must be a dict, got {value!r}$"):
        load_config(str(COCO_CONFIG), {key: value})


def test_mmdet_datasets_stands_for_data_coco(monkeypatch):
    monkeypatch.setenv('MMDET_DATASETS', '/sets/coco2017')
    cfg = load_config(COCO_CONFIG)
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.data_root == '/sets/coco2017/'
    assert cfg.val_evaluator.ann_file == '/sets/coco2017/annotations/instances_val2017.json'
    assert load_config(str(SHAPES_CONFIG)).train_dataloader.dataset.data_root == 'data/shapes/'


@pytest.mark.parametrize('text, said', [
    ('a = 1\nb = (', r"config '\S+config\.py', or one .*, is not valid Python in line 2: "),
    ("_base_ = 'gone.py'", r"config '\S+config\.py' needs '\S+gone\.py', which does not exist\. Check its _base_$"),
    ("from mmengine.runner import Runner\n_base_ = '{}'",
     r"config '\S+config\.py' can't be read: The configuration file type"),
])
def test_a_config_that_cannot_be_read_is_one_line(tmp_path, text, said):
    (tmp_path / 'config.py').write_text(text.format(SHAPES_CONFIG))
    with pytest.raises(UserError, match=said) as caught:
        load_config(str(tmp_path / 'config.py'))
    assert '\n' not in str(caught.value)


def without_scopes(value):
    if isinstance(value, dict):
        return {key: without_scopes(item) for key, item in value.items() if key != '_scope_'}
    return [without_scopes(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize('path', [
    COCO_CONFIG, str(SHAPES_CONFIG), str(ROOT / 'configs' / 'fasternet_m_in1k.py'),
    *(str(ROOT / 'configs' / f'{name}_fasternet_t0_300e_coco.py') for name in ('rtmdet-ins', 'rtmdet'))])
def test_types_that_are_classes_become_the_text_of_configs_in_text(path, tmp_path):
    expected = load_config(path)
    pure = tmp_path / Path(path).name
    pure.write_text(pure_python(expected))
    assert 'type=' not in pure.read_text() and pure.read_text().count("'type': ") > 20
    actual = load_config(str(pure))
    expected.pop('custom_imports')  # its own imports do that
    assert without_scopes(actual.to_dict()) == without_scopes(expected.to_dict())
    assert not [node for _, node in walk([actual[key] for key in actual]) if callable(node.get('type'))]


def test_types_that_no_registry_knows_are_import_paths(tmp_path):
    (tmp_path / 'pure.py').write_text('''
from mmdet.models import MaskRCNN
from torch import float16
from tests.engine.test_config import SomeHook
model = dict(type=MaskRCNN)
custom_hooks = [dict(type=SomeHook, dtype=float16)]
''')
    cfg = load_config(str(tmp_path / 'pure.py'))
    assert cfg.custom_hooks == [dict(type='tests.engine.test_config.SomeHook', dtype='float16')]
    assert class_of(cfg.custom_hooks[0], HOOKS, 'mmdet') is SomeHook
    assert cfg.custom_imports.imports == ['tests.engine.test_config'] and cfg.default_scope == 'mmdet'


class SomeHook(Hook):
    pass


def test_types_under_other_keys_and_of_operators_become_text(tmp_path):
    """As MMDetection's own pure Python configs name them; a run writes its config down."""
    (tmp_path / 'pure.py').write_text('''
from mmcv.ops import RoIAlign, nms
from mmdet.models import MaskRCNN
from mmengine.runner import Runner
from mmfasternet.engine.layer_decay import LayerDecayOptimWrapperConstructor
model = dict(type=MaskRCNN, roi_layer=dict(type=RoIAlign), test_cfg=dict(nms=dict(type=nms, iou_threshold=0.5)))
optim_wrapper = dict(constructor=LayerDecayOptimWrapperConstructor)
runner_type = Runner
''')
    cfg = load_config(str(tmp_path / 'pure.py'))
    assert cfg.model.roi_layer.type == 'RoIAlign' and cfg.model.test_cfg.nms.type == 'nms'
    assert cfg.optim_wrapper.constructor == 'mmfasternet.LayerDecayOptimWrapperConstructor'
    assert cfg.runner_type == 'Runner'
    assert "nms=dict(iou_threshold=0.5, type='nms')" in cfg.pretty_text


def test_functions_of_the_config_itself_stay(tmp_path):
    (tmp_path / 'pure.py').write_text('''
from mmdet.models import MaskRCNN
from mmengine.dataset import pseudo_collate
def collate(samples):
    return samples
class Collate:  # its instances have no name
    __call__ = collate
model = dict(type=MaskRCNN)
train_dataloader = dict(collate_fn=dict(type=collate))
val_dataloader = dict(collate_fn=dict(type=Collate()))
test_dataloader = dict(collate_fn=dict(type=pseudo_collate))
''')
    cfg = load_config(str(tmp_path / 'pure.py'))
    assert callable(cfg.train_dataloader.collate_fn.type) and callable(cfg.val_dataloader.collate_fn.type)
    assert (cfg.model.type, cfg.test_dataloader.collate_fn.type) == ('MaskRCNN', 'pseudo_collate')


@pytest.mark.parametrize('path, expected', [(COCO_CONFIG, False),
                                            (str(ROOT / 'configs' / 'fasternet_t0_in1k.py'), True)])
def test_classifiers_are_told_from_detectors(path, expected):
    cfg = load_config(path)
    assert is_classifier(cfg) is expected
    cfg.model = dict(type='AnyTTA', module=cfg.model)
    assert is_classifier(cfg) is expected


@pytest.mark.slow
def test_tools_take_a_pure_python_config_as_one_in_text(run_tool, shapes, tmp_path):
    pure = tmp_path / 'pure.py'
    pure.write_text(pure_python(load_config(str(SHAPES_CONFIG), {
        'optim_wrapper.type': 'AmpOptimWrapper',  # without a GPU it trains without
        'model.test_cfg.rcnn.score_thr': 0.})))
    short = ['--cfg-options', *data_options(shapes), 'train_dataloader.batch_size=4', 'train_cfg.max_epochs=1',
             'train_cfg.val_interval=1']
    assert run_tool('train', pure, '--work-dir', tmp_path / 'work', *short).code == 0
    weights = tmp_path / 'work' / 'epoch_1.pth'
    for flags in (['--show-dir', tmp_path / 'shown'], ['--tta'], ['--deploy']):
        result = run_tool('test', pure, weights, '--work-dir', tmp_path / 'test', *flags, *short)
        assert result.code == 0 and 'box' in result.out, result.err
    pictures = {path.name for path in (shapes / 'val').iterdir()}
    assert {path.name for path in (tmp_path / 'shown').iterdir()} == pictures
    result = run_tool('image_demo', shapes / 'val', pure, weights, '--out-dir', tmp_path / 'out', '--device', 'cpu')
    assert result.code == 0 and (tmp_path / 'out' / 'predictions.json').exists(), result.err
    assert {path.name for path in (tmp_path / 'out' / 'vis').iterdir()} == pictures
    result = run_tool('export', pure, weights, '--out', tmp_path / 'exported')
    assert result.code == 0 and (tmp_path / 'exported' / 'dense.onnx').exists(), result.err
    assert run_tool('get_flops', pure, '--size', '96', '128').code == 0
    assert run_tool('benchmark_detector', pure, '--runs', '1', '--size', '96', '128', '--device', 'cpu').code == 0


def test_a_digest_tells_configs_apart_by_their_content(tmp_path):
    def digest(text, *keys):
        (tmp_path / 'x.py').write_text(text)
        return config_digest(Config.fromfile(tmp_path / 'x.py'), *keys)

    same = digest('model = dict(a=1, b=(2, 3))\nother = 4', 'model')
    assert same == digest('model = dict(b=(2, 3), a=1)\nother = 5', 'model') and len(same) == 12
    assert same != digest('model = dict(a=1, b=(2, 4))', 'model')
    assert digest('a = dict(b=dict(c=1))', 'a.b') == digest('a = dict(b=dict(c=1), d=2)', 'a.b')
    assert digest('a = dict(b=dict(c=1))', 'a.b') != digest('a = dict(b=dict(c=2))', 'a.b')
    assert digest('a = 1', 'a.b', 'c') == digest('a = 2', 'a.b', 'c')
    functions = [digest('def own():\n    pass\na = dict(type=own)', 'a') for _ in range(2)]  # each at its own address
    assert functions[0] == functions[1] != digest('def other():\n    pass\na = dict(type=other)', 'a')
