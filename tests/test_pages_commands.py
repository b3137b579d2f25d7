"""The commands of all pages, typed as they stand there, in a folder with toys in the place of data and weights.

What is put in for their placeholders, and what makes the trainings short, is in the tables below. A command that stands
on several pages runs once.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from PIL import Image
from torchvision.models import resnet50

from mmfasternet.models import FasterNet
from tests.conftest import ROOT, build, free_port
from tests.datasets.test_nuclei import make_folder
from tests.datasets.test_video_files import make_video
from tests.forked import run_command
from tests.official import official_classifier, official_detector
from tests.test_pages import OWN_DATA, PAGES, README, TEXT

#: What a reader would put in for the pages' words, the longer ones first.
WORDS = {
    'work_dirs/CONFIG': 'work_dirs/mask_rcnn_fasternet_t0_shapes',
    'in1k.py CHECKPOINT': 'in1k.py fasternet_t0.pth',
    'approximation CHECKPOINT': 'approximation resnet50.pth --epochs 1 --max-images 10',
    '--checkpoint FILE': '--checkpoint shapes.pth',
    '--ann-file FILE': '--ann-file data/shapes/annotations/instances_val.json',
    '--show-dir DIR': '--show-dir shown',
    '--images DIR': '--images data/imagenet/val',
    '--out DIR': '--out out',
    '--size H W': '--size 64 96',
    'mmfasternet|official|timm|backbone': 'official',
    '--dtype int8': '--dtype int8 --calibration-images 8',
    'benchmark forms CONFIG': 'benchmark forms configs/fasternet_t0_in1k.py --size 64 64 --rounds 1 --no-compile',
    'CONFIG...': 'configs/mask_rcnn_fasternet_t0_shapes.py',
    'CONFIG': 'configs/mask_rcnn_fasternet_t0_shapes.py',
    'CHECKPOINT': 'shapes.pth',
    'IMAGE_OR_FOLDER': 'data/shapes/val',
    'VIDEO': 'clip.avi',
    'IN OUT': 'shapes.pth out.pth',
    'epoch_12.pth': 'epoch_1.pth',
    'epoch_20.pth': 'epoch_1.pth',
    'num_classes=24': 'num_classes=2',
    'NNODES=8 NODE_RANK=0 MASTER_ADDR=HOST': 'NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1',
}
SIZE = '(96, 96)'
#: What follows a command that trains or tests, by the name of its config.
SHORT = {
    '1x_coco|my_data': ['train_dataloader.dataset.pipeline.2.scale=' + SIZE, 'train_dataloader.num_workers=1',
                        *(f'{split}_dataloader.{key}' for split in ('val', 'test')
                          for key in ('dataset.pipeline.1.scale=' + SIZE, 'num_workers=1'))],
    'in1k': [f'{split}_dataloader.num_workers=1' for split in ('train', 'val', 'test')],
    'shapes': ['train_dataloader.batch_size=2', 'train_cfg.val_interval=1'],
}
#: Commands that take an hour, and where what they gave is kept; test_tools.py and test_run_all.py run them on little.
MEASURED = {
    'benchmark all': 'forms/report.md',
    'benchmark detector --table4': 'table-4/report.md',
    'benchmark classifier': 'table-3/report.md',
    'benchmark operators': 'operators/table-1/report.md',
    'benchmark training': 'training/report.md',
    'benchmark forms configs/fasternet': 'forms/fasternet_s_in1k/report.md',
    'benchmark forms configs/mask_rcnn': 'forms/mask_rcnn_fasternet_s_1x_coco/report.md',
}


def typed(text):
    """The lines of it that run one of our scripts or commands, without their remarks."""
    lines = (line.split(' #')[0].strip() for line in text.replace('\\\n', ' ').splitlines())
    return [line for line in lines if re.search(r'\btools/\w+\.(py|sh)\s|(^|-m )mmfasternet [a-z]', line)]


def sessions():
    """The commands of each block that are in none before, the README's last, as it repeats pages; then those inline."""
    found, inline = [], []
    for text in [*list(PAGES.values())[1:], README]:
        blocks = [typed(block) for block in re.findall(r'```bash\n(.*?)```', text, re.S)]
        inline += [command for command in re.findall(r'`([^`\n]+)`', text)
                   if re.search(r'\bCONFIG\b', command) and typed(command)]
        for block in blocks:
            known = {command for session in found for command in session}
            found.append([command for command in block if command not in known])
    return [session for session in [*found, list(dict.fromkeys(inline))] if session]


SESSIONS = sessions()


def measured(command):
    return next((path for part, path in MEASURED.items() if part in command), None)


def filled_in(command):
    """The command with all that it may have, on the toys."""
    command = re.sub(r'\[([^|\]]*?)( \|[^\]]*)?\](?= |$)|\[([^\]]*)\]', lambda m: m[1] or m[3], command)
    for word, value in WORDS.items():
        command = command.replace(word, value)
    command = re.sub(r'(dist_\w+\.sh.* |--nproc_per_node=)8\b', r'\g<1>2', command)
    if re.search(r'/(dist_)?(train|test)\.|mmfasternet (train|test) ', command):
        options = [option for part, options in SHORT.items() if re.search(part, command) for option in options]
        options += ['train_cfg.max_epochs=1']
        command += ('' if '--cfg-options' in command else ' --cfg-options') + ''.join(f" '{o}'" for o in options)
    return command


@pytest.fixture(scope='module')
def place(shapes, trained, tmp_path_factory):
    """The folder: our scripts and configs, toy data, and the published weights where downloads are kept."""
    place = tmp_path_factory.mktemp('pages')
    (place / 'tools').symlink_to(ROOT / 'tools')
    shutil.copytree(ROOT / 'configs', place / 'configs')
    (place / 'configs' / 'my_data.py').write_text(OWN_DATA)
    shutil.copytree(shapes, place / 'data' / 'shapes')
    shutil.copy(trained / 'epoch_2.pth', place / 'shapes.pth')
    for number in range(12):
        make_folder(place / 'stage1_train', f'{number:02}', number)
    make_video(place / 'clip.avi')
    torch.save(resnet50().state_dict(), place / 'resnet50.pth')
    torch.save(official_classifier(FasterNet('t0', out_norm=False)), place / 'fasternet_t0.pth')

    hub = place / 'hub' / 'checkpoints'
    hub.mkdir(parents=True)
    cfg = Config.fromfile(ROOT / 'configs' / 'mask_rcnn_fasternet_s_1x_coco.py')
    classifier = cfg.model.backbone.init_cfg.checkpoint
    torch.save(official_classifier(FasterNet('s', out_norm=False)), hub / os.path.basename(classifier))
    detector, = re.findall(r'https://\S+mask_rcnn\S+\.pth', TEXT)
    cfg.model.backbone.init_cfg = None
    torch.save(dict(state_dict=official_detector(build(cfg.model))), hub / os.path.basename(detector))

    write_coco(shapes, place / 'data' / 'coco', '{}2017', 'annotations/instances_{}2017.json',
               CocoDataset.METAINFO['classes'])
    write_coco(shapes, place / 'data' / 'my_data', 'images', '{}.json', ('cat', 'dog'))
    for split in ('train', 'val'):
        for number in range(1000):
            folder = place / 'data' / 'imagenet' / split / f'n{number:08}'
            folder.mkdir(parents=True)
            if number < 12:
                pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f'{number}.JPEG')
        for number in range(2):
            shutil.copytree(place / 'data' / 'imagenet' / split / f'n{number:08}',
                            place / 'data' / 'photos' / split / f'kind-{number}')

    (place / 'bin').mkdir()
    for name, content in (('srun', 'echo "$@"'), ('mmfasternet', f'exec "{sys.executable}" -m mmfasternet "$@"')):
        (place / 'bin' / name).write_text(f'#!/bin/sh\n{content}\n')
        (place / 'bin' / name).chmod(0o755)
    yield place
    shutil.rmtree(place)  # checkpoints of 600 MB


def write_coco(shapes, folder, images, annotations, classes):
    """Some shapes under other names, in COCO's format; those without a name are left out."""
    for split in ('train', 'val'):
        content = json.loads((shapes / 'annotations' / f'instances_{split}.json').read_text())
        del content['images'][4 if split == 'train' else 2:]
        kept = {image['id'] for image in content['images']}
        content['annotations'] = [row for row in content['annotations'] if row['image_id'] in kept]
        content['categories'] = [dict(id=number, name=name) for number, name in enumerate(classes, 1)]
        content['annotations'] = [row for row in content['annotations'] if row['category_id'] <= len(classes)]
        to = folder / images.format(split)
        to.mkdir(parents=True, exist_ok=True)
        for image in content['images']:
            name = f"{split}-{image['file_name']}"
            shutil.copy(shapes / split / image['file_name'], to / name)
            image['file_name'] = name
        file = folder / annotations.format(split)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.parametrize('commands', SESSIONS, ids=lambda commands: re.sub(r'\W+', '-', commands[0])[:60])
def test_a_block_runs_from_top_to_bottom(place, commands, tmp_path):
    if any('int8' in command for command in commands) and importlib.util.find_spec('nncf') is None:
        pytest.skip('NNCF refuses this numpy')
    path = os.pathsep.join([str(place / 'bin'), os.path.dirname(sys.executable), os.environ['PATH']])
    environment = dict(os.environ, PATH=path, TORCH_HOME=str(place), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='',
                       PYTHONPATH=str(ROOT))
    for command in commands:
        kept = measured(command)
        if kept:
            assert list((ROOT / 'benchmarks').glob(f'*/{kept}')), command
            continue
        times = [filled_in(command)]
        if '--resume' in command:  # the same line starts and goes on
            shutil.rmtree(place / 'work_dirs', ignore_errors=True)
            times.append(times[0].replace('max_epochs=1', 'max_epochs=2'))
        for line in times:
            words = shlex.split(line)
            if words[0] == 'mmfasternet':
                result = run_command([str(place / 'bin' / 'mmfasternet'), *words[1:]], place, environment, tmp_path)
            else:
                result = subprocess.run(['bash', '-c', line], cwd=place, capture_output=True, text=True, timeout=600,
                                        env=dict(environment, MASTER_PORT=free_port()))
            assert result.returncode == 0, f'{line}\n{result.stderr[-3000:]}'
            assert result.stdout.strip(), line
        assert ('resumed epoch: 1' in result.stdout + result.stderr) == ('--resume' in command)
