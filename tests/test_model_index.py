"""What OpenMMLab's tools find."""

import re

import pytest
import yaml
from mmengine.config import Config

from mmfasternet.benchmark.paper import TABLE_4
from tests.conftest import ROOT

INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text())
MODELS = [model for path in INDEX['Import'] for model in yaml.safe_load((ROOT / path).read_text())['Models']]
PAGES = ''.join((ROOT / 'docs' / f'{name}.md').read_text() for name in ('training', 'pretraining', 'other_detectors'))


def files(place):
    """What a file or a folder holds."""
    paths = [path for path in (place, *place.rglob('*')) if path.is_file() and '__pycache__' not in path.parts]
    return {str(path.relative_to(place)): path.read_bytes() for path in paths}


def test_every_model_of_ours_is_listed_once():
    configs = [model['Config'] for model in MODELS]
    own = {f'configs/{path.name}' for path in (ROOT / 'configs').glob('*.py')}
    examples = {f'configs/{name}.py' for name in (
        'mask_rcnn_fasternet_t0_shapes', 'fasternet_t0_digits', 'fasternet_t0_photos',
        *(f'mask_rcnn_fasternet_{arch}_nuclei' for arch in ('t0', 't1', 's')))}
    assert sorted(configs) == sorted(own - examples)
    assert [model['Name'] for model in MODELS] == [re.fullmatch(r'configs/(.*)\.py', path)[1] for path in configs]


@pytest.mark.parametrize('model', MODELS, ids=lambda model: model['Name'])
def test_figures_agree_with_configs_and_pages(model):
    cfg = Config.fromfile(ROOT / model['Config'])
    assert model['Metadata']['Epochs'] == cfg.train_cfg.max_epochs
    row = next((line for line in PAGES.splitlines() if line.startswith(f"| `{model['Name']}.py`")), '')
    figures = [figure for result in model.get('Results', []) for figure in result['Metrics'].values()]
    assert all(f'| {figure}' in row for figure in figures)
    if 'Weights' not in model:
        return
    classifier = re.fullmatch(r'fasternet_(\w+)_in1k', model['Name'])
    if classifier:
        detector = Config.fromfile(ROOT / 'configs' / f'mask_rcnn_fasternet_{classifier[1]}_1x_coco.py')
        assert model['Weights'] == detector.model.backbone.init_cfg.checkpoint
    else:
        published = TABLE_4[model['Name']]
        assert model['Metadata']['Parameters'] == published.parameters * 1e6
        assert model['Metadata']['FLOPs'] == published.flops * 1e9
        file = model['Name'].replace('_1x', '_fpn_1x') + r'_\d+_\d+\.pth'
        assert re.fullmatch(rf'https://github\.com/JierunChen/FasterNet/releases/.*/{file}', model['Weights'])


def test_all_published_weights_are_listed():
    assert [model['Name'] for model in MODELS if 'Weights' in model] == [
        *(f'fasternet_{size}_in1k' for size in ('t0', 't1', 't2', 's', 'm', 'l')),
        *(f'mask_rcnn_fasternet_{size}_1x_coco' for size in ('s', 'm', 'l'))]


def test_packages_carry_the_index_and_the_configs():
    """By links in a checkout, by copies in an sdist."""
    for name in ('configs', 'tools', 'model-index.yml'):
        carried = ROOT / 'mmfasternet' / '.mim' / name
        assert carried.resolve() == ROOT / name or not carried.is_symlink() and files(carried) == files(ROOT / name)
