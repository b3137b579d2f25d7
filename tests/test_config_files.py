"""Configs by name, from wherever."""

from pathlib import Path

import pytest
from mmengine.config import Config

import mmfasternet
from mmfasternet.config_files import config_names
from mmfasternet.engine.config import load_config
from mmfasternet.errors import UserError
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / 'configs').glob('*.py'))


def test_all_configs_but_those_to_inherit_from_have_a_name():
    files = {str(path.relative_to(ROOT / 'configs'))[:-3] for path in (ROOT / 'configs').rglob('*.py')}
    assert set(config_names()) == {name for name in files if not name.startswith('_base_')}
    assert {'mask_rcnn_fasternet_s_1x_coco', 'comparison/mask_rcnn_resnet50_1x_coco'} <= set(config_names())


@pytest.mark.parametrize('name', ['mask_rcnn_fasternet_s_1x_coco', 'mask_rcnn_fasternet_s_1x_coco.py',
                                  'configs/mask_rcnn_fasternet_s_1x_coco.py', 'mask-rcnn_fasternet-s_1x_coco'])
def test_a_name_gives_a_path_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path(mmfasternet.config_path(name))
    assert path.is_absolute() and path.resolve() == ROOT / 'configs' / 'mask_rcnn_fasternet_s_1x_coco.py'
    assert mmfasternet.config_path(Path(name)) == str(path)
    cfg = load_config(name)
    assert cfg.model.backbone.arch == 's' and cfg.work_dir == 'work_dirs/mask_rcnn_fasternet_s_1x_coco'


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('mask_rcnn_fasternet_s_1x_coco').mkdir()  # no file
    Path('own.py').write_text('a = 1')
    assert load_config('own.py').a == 1 and load_config('mask_rcnn_fasternet_s_1x_coco').model.type == 'MaskRCNN'


def test_a_name_that_is_none_has_similar_ones():
    with pytest.raises(UserError, match=r"^the package has no config named 'mask_rcnn_fasternet_s_1x'\. "
                                        r"Similar names: mask_rcnn_fasternet_s_1x_coco$"):
        mmfasternet.config_path('mask_rcnn_fasternet_s_1x')
    with pytest.raises(UserError, match="Similar names: retinanet_fasternet_t2_1x_coco"):
        mmfasternet.config_path('retinanet_fasternet_t1_1x_coco')
    line = r"^config 'qqq/zzz\.py' is not a file, and the package has no config named .* All configs are in /"
    with pytest.raises(UserError, match=line):
        load_config('qqq/zzz.py')


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_each_has_a_module_for_pure_python_configs(path, tmp_path):
    module = path.stem.replace('-', '_')
    own = tmp_path / 'own.py'
    own.write_text('from mmengine.config import read_base\n\nwith read_base():\n'
                   f'    from mmfasternet.configs.{module} import *\n')
    cfg, expected = Config.fromfile(own), Config.fromfile(path)
    assert {key: cfg[key] for key in expected} == {key: expected[key] for key in expected}
    assert set(cfg) - set(expected) == {'read_base'}  # as MMEngine reads such files


def test_there_are_no_other_modules():
    modules = {path.stem for path in (ROOT / 'mmfasternet' / 'configs').glob('*.py')}
    assert modules == {'__init__', *(path.stem.replace('-', '_') for path in CONFIGS)}
