"""The examples of the README and of the pages in docs/ do what these say; links, files and commands are there."""

import functools
import importlib
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image
from pycocotools.coco import COCO

from mmfasternet.models import FasterNet
from tests.conftest import ROOT
from tests.datasets.test_bad_data import KINDS

DOCS = ROOT / 'docs'
PAGES = {path: path.read_text() for path in (ROOT / 'README.md', *sorted(DOCS.rglob('*.md')))
         if '_build' not in path.parts}
README, TEXT = PAGES[ROOT / 'README.md'], '\n'.join(PAGES.values())
OTHERS_TEST = DOCS / 'partial_convolution.md'  # test_partial_convolution_page.py


def python_blocks(text):
    return re.findall(r'```python\n(.*?)```', text, re.S)


EXAMPLES = sorted({block for page, text in PAGES.items() if page != OTHERS_TEST
                   for block in python_blocks(text) if '_base_' in block})
OWN_DATA, = (block for block in EXAMPLES if 'data/my_data' in block)
CONFIGS = [block for block in EXAMPLES if 'in1k' not in block]  # of detectors


def written(folder, text):
    path = folder / 'config.py'
    path.write_text(text.replace("_base_ = './", f"_base_ = '{ROOT}/configs/"))
    return path


@pytest.mark.parametrize('text', CONFIGS)
def test_example_configs_build(tmp_path, text):
    cfg = Config.fromfile(written(tmp_path, text))
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model).eval()
        assert isinstance(model.backbone, FasterNet)
        with torch.no_grad():
            assert len(model.extract_feat(torch.rand(1, 3, 64, 64))) == 5


def test_own_classes_example_is_trained(tmp_path, run_tool, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, = set(EXAMPLES) - set(CONFIGS)
    for split in ('train', 'val'):
        for name in ('ant', 'bee', 'cricket'):
            (tmp_path / 'data' / 'insects' / split / name).mkdir(parents=True)
            Image.new('RGB', (40, 50)).save(tmp_path / 'data' / 'insects' / split / name / 'a.jpg')
    result = run_tool('train', written(tmp_path, text), '--cfg-options', 'train_cfg.max_epochs=1',
                      *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')))
    assert result.code == 0, result.err
    cfg = Config.fromfile(tmp_path / 'work_dirs' / 'config' / 'config.py')
    assert cfg.val_evaluator.topk == (1, )
    assert next((tmp_path / 'work_dirs' / 'config').glob('best_accuracy_top1_epoch_1.pth'))


def test_masks_example_gives_a_file(tmp_path, monkeypatch):
    text, = (block for block in python_blocks(TEXT) if 'from_masks' in block)
    monkeypatch.chdir(tmp_path)
    root = tmp_path / 'data' / 'my_data'
    mask = np.zeros((20, 30), np.uint8)
    mask[5:9, 10:20] = 255
    for folder, name in (('images', 'a.png'), ('images', 'b.png'), ('labels', 'a.tif'), ('masks/b', '1.png')):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(root / folder / name)
    exec(text, {})
    coco = COCO(str(root / 'train.json'))
    assert [image['file_name'] for image in coco.loadImgs(coco.getImgIds())] == ['a.png', 'b.png']
    np.testing.assert_array_equal([coco.annToMask(row) for row in coco.loadAnns(coco.getAnnIds())], [mask > 0] * 2)


def test_own_data_example_reaches_every_place(tmp_path):
    assert len(OWN_DATA.split('\n\n')[1].splitlines()) + 1 == 10  # as the pages count them
    cfg = Config.fromfile(written(tmp_path, OWN_DATA))
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.metainfo.classes == ('cat', 'dog') and dataset.data_root == 'data/my_data/'
        assert dataset.data_prefix.img == 'images/'
    assert cfg.test_evaluator.ann_file == 'data/my_data/val.json'
    assert cfg.model.roi_head.bbox_head.num_classes == cfg.model.roi_head.mask_head.num_classes == 2


@pytest.mark.parametrize('base, model', [
    ('faster_rcnn_fasternet_s_1x_coco', 'dict(roi_head=dict(bbox_head=dict(num_classes=num_classes)))'),
    ('retinanet_fasternet_t2_1x_coco', 'dict(bbox_head=dict(num_classes=num_classes))'),
    ('rtmdet_fasternet_t0_300e_coco', 'dict(bbox_head=dict(num_classes=num_classes))')])
def test_own_data_with_boxes_only(tmp_path, base, model):
    assert model in re.sub(r'\s+', ' ', PAGES[DOCS / 'own_data.md'])
    text = OWN_DATA.replace('mask_rcnn_fasternet_s_1x_coco', base)
    text = re.sub('^model = .*$', f'model = {model}', text, flags=re.M)
    cfg = Config.fromfile(written(tmp_path, text))
    assert cfg.val_evaluator.metric == 'bbox' and cfg.val_evaluator.ann_file == 'data/my_data/val.json'
    assert (cfg.model.get('roi_head') or cfg.model).bbox_head.num_classes == 2
    assert cfg.train_dataloader.dataset.ann_file == 'train.json'


def table_row(first_cell):
    """The one row of all pages that begins with it."""
    row, = (line for line in TEXT.splitlines() if line.startswith(f'| {first_cell} |'))
    return row


def test_tables_agree_with_the_code():
    for arch, settings in FasterNet.arch_settings.items():
        model = FasterNet(arch)
        channels = ', '.join(map(str, model.stage_channels))
        blocks = ', '.join(map(str, settings['depths']))
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        row = f"| `{arch}` | {channels} | {blocks} | {settings['act_cfg']['type']} | {millions:.1f} M |"
        assert row in TEXT
        assert row.split('|')[2].strip() in FasterNet.__doc__


@pytest.mark.parametrize('arch', list(FasterNet.arch_settings))
def test_the_table_of_the_imagenet_recipe_agrees_with_the_configs(arch):
    cfg = Config.fromfile(ROOT / 'configs' / f'fasternet_{arch}_in1k.py')
    row = table_row(f'`fasternet_{arch}_in1k.py`')
    batch_size, lr, weight_decay, drop_path, magnitude, mixup, clipping = [
        None if cell.strip() == '-' else float(cell) for cell in row.split('|')[2:9]]
    assert batch_size == cfg.auto_scale_lr.base_batch_size and lr == cfg.optim_wrapper.optimizer.lr
    assert weight_decay == cfg.optim_wrapper.optimizer.weight_decay
    assert drop_path == cfg.model.backbone.get('drop_path_rate', 0)
    augment = [t for t in cfg.train_dataloader.dataset.pipeline if t.type == 'RandAugment']
    assert magnitude == (augment[0].magnitude_level if augment else None)
    assert mixup == cfg.model.train_cfg.augments[0].alpha
    assert clipping == (cfg.optim_wrapper.get('clip_grad') or {}).get('max_norm')


@pytest.mark.parametrize('path',
                         re.findall(r'(?:configs|tools|requirements|mmfasternet)/[\w/]+\.(?:py|sh|txt)', TEXT))
def test_named_files_exist(path):
    assert (ROOT / path).is_file() or path == 'configs/my_data.py'


def commands():
    """Every line of a page that runs one of our scripts or commands, without what is optional in it."""
    blocks = '\n'.join(re.findall(r'```bash\n(.*?)```', TEXT, re.S)).replace('\\\n', ' ').splitlines()
    inline = re.findall(r'`([^`\n]*(?:tools/\w+\.(?:py|sh)|mmfasternet [a-z])[^`\n]*)`', TEXT)
    for line in blocks + inline:
        line = line.split('#')[0]
        found = re.search(r'(tools/\w+\.(?:py|sh))(.*)', line) or re.search(
            r'(?:^|-m )mmfasternet ((?:benchmark )?[a-z][\w-]*)(.*)', line)
        if found:
            yield found[1], tuple(re.findall(r'--[a-z][\w-]*', found[2]))


@functools.cache
def flags_of(name):
    # dist_train.sh and its like hand their options to train.py.
    script = re.sub(r'(?:dist|slurm)_(\w+)\.sh', r'\1.py', name)
    start = [ROOT / script] if '/' in name else ['-m', 'mmfasternet', *name.split()]
    result = subprocess.run([sys.executable, *start, '--help'], capture_output=True, text=True, cwd=ROOT)
    return set(re.findall(r'--[a-z][\w-]*', result.stdout)) if result.returncode == 0 else set()


@pytest.mark.slow
@pytest.mark.parametrize('name, flags', sorted(set(commands())), ids=str)
def test_commands_have_their_flags(name, flags):
    assert (ROOT / name).is_file() or '/' not in name
    assert {'--help', *flags} <= flags_of(name)


def test_make_targets_exist():
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M))
    named = set(re.findall(r'(?:`|^)make ([a-z][\w-]*)', TEXT, re.M))
    assert {'demo', 'test', 'test-slow', 'setup', 'lint', 'docs'} <= named <= targets


@pytest.mark.parametrize('page, link', [(page, link) for page, text in PAGES.items()
                                        for link in re.findall(r'\]\(([^):]+)\)', text)],
                         ids=lambda value: value.name if isinstance(value, Path) else value)
def test_links_lead_somewhere(page, link):
    path, _, heading = link.partition('#')
    target = page.parent / path if path else page
    assert target.exists()
    if heading and target.suffix == '.md':
        headings = re.findall(r'^#+ (.*)$', target.read_text(), re.M)
        assert heading in {re.sub(r'[^\w -]', '', line.lower()).replace(' ', '-') for line in headings}


@pytest.mark.parametrize('gpus, batch, lr', [(1, 2, 2.5e-5), (8, 16, 2e-4), (64, 128, 1.6e-3)])
def test_the_table_of_gpus_follows_its_formulas(gpus, batch, lr):
    cfg = Config.fromfile(ROOT / 'configs' / 'mask_rcnn_fasternet_s_1x_coco.py')
    assert batch == gpus * cfg.train_dataloader.batch_size
    assert lr == pytest.approx(cfg.optim_wrapper.optimizer.lr * batch / cfg.auto_scale_lr.base_batch_size)
    row = next(line for line in TEXT.splitlines() if line.startswith(f'| {gpus} | ') and f'| {batch} |' in line)
    assert f'{lr:.1e}'.replace('.0e', 'e').replace('e-0', 'e-') in row and f'{math.ceil(117266 / batch):,}' in row


def test_the_number_of_bad_data_is_that_of_the_tests():
    assert f'try {len(KINDS)} kinds of bad' in TEXT.replace('\n', ' ')


def test_the_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 200 and max(map(len, lines)) <= 128


def test_the_readme_leads_to_every_page():
    pages = {str(page.relative_to(ROOT)) for page in PAGES if page.parent == DOCS}
    # The first is made of the README, the second is its likeness on a package index.
    assert pages - set(re.findall(r'\]\(([^)#]+)', README)) == {'docs/index.md', 'docs/package_index.md'}


def test_the_readmes_backbone_gives_four_maps():
    text, = (block for block in python_blocks(README) if 'FasterNet(' in block)
    found = {}
    exec(text, found)
    assert [224 // x.shape[3] for x in found['maps']] == [4, 8, 16, 32]


def test_what_the_readme_has_from_a_page_is_the_same():
    """Its ten lines for data of one's own, and the figures of its table of models."""
    assert OWN_DATA in README and OWN_DATA in PAGES[DOCS / 'own_data.md']
    for arch in FasterNet.arch_settings:
        *_, parameters, multiply_adds, top_1 = table_row(f'`fasternet_{arch}_in1k.py`').split(' | ')
        detector = table_row(f'`mask_rcnn_fasternet_{arch}_1x_coco.py`').split(' | ')[3:]
        figures = [arch.upper(), parameters, multiply_adds, top_1.rstrip(' |'), *detector]
        assert f"| {' | '.join(figures)}" in README


@pytest.mark.parametrize('package', ['mmfasternet', 'mmfasternet.models', 'mmfasternet.deploy',
                                     'mmfasternet.checkpoints', 'mmfasternet.datasets.from_masks'])
def test_the_reference_has_all_public_names(package):
    text, module = PAGES[DOCS / 'api.md'], importlib.import_module(package)
    if f'.. automodule:: {package}\n' not in text:
        for name in {*module.__all__} - {'__version__'}:
            assert re.search(rf'^\.\. auto(class|function):: mmfasternet(\.models)?\.{name}$', text, re.M), name


def test_the_reference_has_all_registered_parts():
    sources = '\n'.join(path.read_text() for path in (ROOT / 'mmfasternet').rglob('*.py') if '.mim' not in path.parts)
    parts = re.findall(r'^@\w+\.register_module\(.*\)\nclass (\w+)', sources, re.M)
    assert len(parts) > 25
    named = set(re.findall(r'\.(\w+)$', PAGES[DOCS / 'api.md'], re.M))
    assert {*parts} - named == {'ExportedClassifier', 'ExportedDetector'}  # which are among the public names


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(tmp_path):
    result = subprocess.run([sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html', '-d',
                             tmp_path / 'doctrees', DOCS, tmp_path / 'html'], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    for page in set(PAGES) - {ROOT / 'README.md', DOCS / 'package_index.md'}:
        assert (tmp_path / 'html' / page.relative_to(DOCS)).with_suffix('.html').is_file()
