import os
import time

import pytest
from mmengine.config import Config

from mmfasternet.engine.outputs import check_outputs, metric_types, written_results
from mmfasternet.errors import UserError

HOOKS = dict(logger=dict(type='LoggerHook'), checkpoint=dict(type='CheckpointHook', out_dir='s3://bucket'))


@pytest.fixture
def config(tmp_path):
    """A config of what entries give, in a folder with a file."""
    (tmp_path / 'file').touch()
    return lambda **entries: Config(dict(work_dir=str(tmp_path / 'work'), default_hooks=HOOKS, **entries))


def test_a_run_that_can_write_passes_and_nothing_is_left(config, tmp_path):
    evaluator = [dict(type='CocoMetric', outfile_prefix=str(tmp_path / 'results' / 'a'), format_only=True),
                 dict(type='DumpResults', out_file_path=str(tmp_path / 'raw.pkl'))]
    hook = dict(type='VisualizationHook', enable=False, out_dir=str(tmp_path / 'file'))
    check_outputs(config(test_evaluator=evaluator, custom_hooks=[hook], visualizer=None), ('test', ))
    assert os.listdir(tmp_path) == ['file']


@pytest.mark.parametrize('entries', [
    dict(custom_hooks=[dict(type='CheckpointHook', out_dir='{}')]),
    dict(custom_hooks=[dict(type='DetVisualizationHook', draw=True, test_out_dir='{}')]),
    dict(custom_hooks=[dict(type='VisualizationHook', enable=True, out_dir='{}/shown')]),
    dict(visualizer=dict(vis_backends=[dict(type='LocalVisBackend', save_dir='{}')])),
    dict(test_evaluator=dict(type='CocoMetric', outfile_prefix='{}/results')),
    dict(test_evaluator=dict(metrics=[dict(type='DumpResults', out_file_path='{}/raw.pkl')])),
    dict(val_evaluator=[dict(type='DumpDetResults', out_file_path='{}/raw.pkl')]),
])
def test_each_place_is_tried(config, tmp_path, entries):

    def placed(value):
        if isinstance(value, dict):
            return {key: placed(item) for key, item in value.items()}
        return [placed(item) for item in value] if isinstance(value, list) else (
            value.format(tmp_path / 'file') if isinstance(value, str) else value)

    cfg = config(**placed(entries))
    with pytest.raises(UserError, match=f"{tmp_path}/file' is not a folder. Choose another place"):
        check_outputs(cfg, ('val', 'test'))
    if 'val_evaluator' in entries:
        check_outputs(cfg, ('test', ))
    if 'test_evaluator' in entries:
        check_outputs(cfg, ('train', 'val'))


def test_a_work_folder_is_tried(config, tmp_path):
    cfg = config()
    cfg.work_dir = str(tmp_path / 'file' / 'work')
    with pytest.raises(UserError, match=f"^'{tmp_path}/file/work' can't be written: '{tmp_path}/file' is not a folder"):
        check_outputs(cfg, ('train', ))


def test_a_config_with_a_function_of_its_own_is_refused(config):
    check_outputs(config(train_dataloader=dict(collate_fn=dict(type='pseudo_collate'))), ('train', ))
    cfg = config(train_dataloader=dict(collate_fn=dict(type=lambda samples: samples)))
    with pytest.raises(SyntaxError):
        cfg.pretty_text  # noqa: B018, as MMEngine's runner writes it
    with pytest.raises(UserError, match=r"be saved: train_dataloader\.collate_fn\.type is <function .*Move it to"):
        check_outputs(cfg, ('train', ))


@pytest.mark.parametrize('evaluator, key', [
    (dict(type='CocoMetric', format_only=True), 'test_evaluator.outfile_prefix'),
    ([dict(type='CocoMetric'), dict(type='CocoMetric', format_only=True, outfile_prefix=None)],
     'test_evaluator.1.outfile_prefix'),
])
def test_results_without_a_place_are_refused(config, evaluator, key):
    """MMDetection has an assertion, or writes them into a folder that it removes."""
    with pytest.raises(UserError, match=rf'--cfg-options {key}=PATH'):
        check_outputs(config(test_evaluator=evaluator), ('test', ))


def test_files_that_were_written_are_counted(tmp_path):
    prefix, began = str(tmp_path / 'a [b]'), time.time()
    evaluator = [dict(type='mmdet.CocoMetric', format_only=True, outfile_prefix=prefix), dict(type='DumpDetResults')]
    (tmp_path / 'a [b].old.json').write_text('[{"image_id": 1}]')
    os.utime(tmp_path / 'a [b].old.json', (began - 60, began - 60))
    assert written_results(evaluator, began) == {}
    (tmp_path / 'a [b].bbox.json').write_text('[{"image_id": 1}, {"image_id": 1}]')
    (tmp_path / 'a [b].segm.json').write_text('[]')
    (tmp_path / 'a [b].zip').write_bytes(b'PK')
    (tmp_path / 'a b').touch()
    assert written_results(dict(metrics=evaluator), began) == {
        f'{prefix}.bbox.json': 2, f'{prefix}.segm.json': 0, f'{prefix}.zip': None}
    assert written_results(evaluator[1:], began) is None
    assert metric_types(evaluator) == ['CocoMetric', 'DumpDetResults']


def test_results_in_a_folder_and_empty_files(tmp_path):
    """CityScapesMetric takes the prefix as a folder."""
    evaluator = dict(type='CityScapesMetric', format_only=True, outfile_prefix=str(tmp_path / 'out'))
    began = time.time() - 1  # a file system's clock is a coarse one
    folder = tmp_path / 'out' / 'results'
    folder.mkdir(parents=True)
    assert written_results(evaluator, began) == {}
    for name in ('a_pred.txt', 'a_0_car.png', 'old.png'):
        (folder / name).touch()
    os.utime(folder / 'old.png', (began - 60, began - 60))
    (tmp_path / 'out.bbox.json').touch()
    assert written_results(evaluator, began) == {str(tmp_path / 'out.bbox.json'): None, f'{folder}{os.sep}': 2}
