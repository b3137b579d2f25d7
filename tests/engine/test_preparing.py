"""The config that runs: what is done to it, and that it says all of it."""

import copy

import pytest
import torch
from mmdet.datasets.samplers import TrackImgSampler
from mmengine.config import Config, ConfigDict
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.registry import HOOKS, LOOPS, DefaultScope

from mmfasternet.datasets import SeededSampler
from mmfasternet.engine.config import load_config
from mmfasternet.engine.config_parts import TEST_PARTS, TRAIN_PARTS, draw_readably
from mmfasternet.engine.config_steps import with_exported, with_speed_ups
from mmfasternet.engine.deploying import DeployOptions
from mmfasternet.engine.hooks import StopHook
from mmfasternet.engine.preparing import prepare, what_was_added
from mmfasternet.engine.run_options import TestOptions, TrainOptions
from mmfasternet.engine.speedups import SpeedUps
from mmfasternet.errors import UserError
from tests.conftest import ROOT, SHAPES_CONFIG

COCO_CONFIG = str(ROOT / 'configs' / 'mask_rcnn_fasternet_s_1x_coco.py')
IMAGENET_M_CONFIG = str(ROOT / 'configs' / 'fasternet_m_in1k.py')  # with AMP


def coco(**options):
    return prepare(load_config(COCO_CONFIG), TrainOptions(**options))


def prepared_test(cfg, **options):
    return prepare(cfg, TestOptions('weights.pth', **options))


def hook_types(cfg):
    return [hook['type'] for hook in cfg.custom_hooks]


def test_all_that_runs_is_named():
    cfg = coco()
    assert hook_types(cfg) == [f'mmfasternet.{name}Hook' for name in (
        'Seed', 'Resume', 'FiniteLoss', 'NameImages', 'Curves', 'Stop')]
    assert cfg.train_cfg.type == 'mmfasternet.EpochBasedTrainLoop'
    assert cfg.default_hooks.checkpoint.type == 'mmfasternet.CheckpointHook'
    assert cfg.train_dataloader.sampler.type == 'mmfasternet.SeededSampler'
    with DefaultScope.overwrite_default_scope('mmdet'):
        for hook in (*cfg.custom_hooks, cfg.default_hooks.checkpoint):
            assert HOOKS.get(hook['type']).__module__.startswith('mmfasternet.engine.hooks.')
        assert LOOPS.get(cfg.train_cfg.type).__module__ == 'mmfasternet.engine.loops'


@pytest.mark.parametrize('path', [COCO_CONFIG, IMAGENET_M_CONFIG, str(SHAPES_CONFIG)])
@pytest.mark.parametrize('options', [TrainOptions(skip_nan=True, deterministic=True),
                                     TestOptions('weights.pth', show_dir='pictures', deploy=DeployOptions(True))])
def test_the_config_stays_and_a_prepared_one_is_prepared_as_it_is(path, options):
    cfg = load_config(path)
    before = cfg.pretty_text
    once = prepare(cfg, options)
    assert cfg.pretty_text == before != once.pretty_text
    assert prepare(once, options).pretty_text == once.pretty_text


@pytest.mark.slow
@pytest.mark.parametrize('options, parts', [
    (TrainOptions(speed_ups=SpeedUps(channels_last=True)), TRAIN_PARTS),
    (TestOptions('weights.pth', show_dir='pictures', deploy=DeployOptions(True)), TEST_PARTS),
])
def test_each_part_can_be_omitted(options, parts):
    everything = prepare(load_config(COCO_CONFIG), options)
    added = everything.mmfasternet.added
    assert set(parts) - set(added) <= {'IterBasedTrainLoop'}
    for name in added:
        cfg = prepare(load_config(COCO_CONFIG, {'mmfasternet.omit': [name]}), options)
        assert cfg.mmfasternet.added == [each for each in added if each != name]
        named = cfg.pretty_text.count(f"type='mmfasternet.{name}'")
        assert named == 0 < everything.pretty_text.count(f"type='mmfasternet.{name}'"), name
    line = what_was_added(everything)
    assert '\n' not in line and all(name in line for name in added) and f'mmfasternet.omit=[{added[-1]}]' in line


def test_hooks_can_be_omitted_from_a_prepared_config_and_other_parts_say_that_they_can_not():
    cfg = coco()
    cfg.mmfasternet.omit = ['StopHook']
    again = prepare(cfg, TrainOptions())
    assert 'mmfasternet.StopHook' not in hook_types(again) and 'StopHook' not in again.mmfasternet.added
    assert len(again.custom_hooks) == len(cfg.custom_hooks) - 1
    cfg.mmfasternet.omit = ['CheckpointHook']
    with pytest.raises(UserError, match="^mmfasternet.omit names 'CheckpointHook', which was added when"):
        prepare(cfg, TrainOptions())


def test_options_hold_for_hooks_that_are_there_already():
    cfg = coco()
    cfg.custom_hooks[2]['max_skipped'] = 3
    again = prepare(cfg, TrainOptions(skip_nan=True))
    assert again.custom_hooks[2] == dict(type='mmfasternet.FiniteLossHook', skip=True, max_skipped=3)
    assert prepare(again, TrainOptions()).custom_hooks[2].skip
    deployed = prepared_test(load_config(COCO_CONFIG), deploy=DeployOptions(True))
    hook = prepared_test(deployed, deploy=DeployOptions(True, 'bfloat16', compile=True)).custom_hooks[-1]
    assert hook == dict(type='mmfasternet.DeployHook', dtype='bfloat16', compile=True, graphs=False)


def test_hooks_that_are_built_already_are_kept():
    cfg = load_config(COCO_CONFIG)
    stop, ema = StopHook(), EMAHook()
    cfg.custom_hooks = [stop, ema]
    prepared = prepare(cfg, TrainOptions())
    kinds = [type(hook) for hook in prepared.custom_hooks]
    assert kinds[:2] == [StopHook, EMAHook] and 'StopHook' not in prepared.mmfasternet.added


def test_checkpoint_hooks_of_others_write_atomically():
    cfg = load_config(COCO_CONFIG)
    for changes, expected in ((dict(), dict(backend='mmfasternet.atomic')),
                              (dict(backend_args=dict(backend='petrel')), dict(backend='petrel'))):
        cfg.default_hooks.checkpoint = dict(type='tests.engine.test_preparing.OwnCheckpointHook', **changes)
        hook = prepare(cfg, TrainOptions()).default_hooks.checkpoint
        assert hook == dict(type='tests.engine.test_preparing.OwnCheckpointHook', backend_args=expected)


class OwnCheckpointHook(CheckpointHook):
    pass


def test_the_loop_that_is_omitted_still_has_seeded_samples():
    cfg = load_config(COCO_CONFIG, {'mmfasternet.omit': ['EpochBasedTrainLoop']})
    cfg.train_cfg = dict(by_epoch=True, max_epochs=3)
    prepared = prepare(cfg, TrainOptions())
    assert prepared.train_cfg == cfg.train_cfg
    assert prepared.train_dataloader.sampler.type == 'mmfasternet.SeededSampler'


def test_a_config_without_a_file(tmp_path):
    text = load_config(str(SHAPES_CONFIG)).pretty_text
    assert prepare(Config.fromstring(text, '.py'), TrainOptions()).mmfasternet.added
    (tmp_path / 'gone.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'gone.py')
    (tmp_path / 'gone.py').unlink()
    assert prepare(cfg, TrainOptions()).filename == str(tmp_path / 'gone.py')


def test_an_unknown_part_is_named():
    with pytest.raises(UserError, match=r"^mmfasternet\.omit names 'SedHook': it must be one of .*SeedHook"):
        prepare(load_config(COCO_CONFIG, {'mmfasternet.omit': ['SedHook']}), TrainOptions())


def test_the_users_own_are_kept():
    cfg = load_config(COCO_CONFIG)
    cfg.custom_hooks = [dict(type='EMAHook'), dict(type='mmfasternet.FiniteLossHook', max_skipped=3),
                        dict(type='mmdet.CheckInvalidLossHook')]
    cfg.train_cfg = dict(type='MyLoop', max_epochs=3)
    cfg.default_hooks.checkpoint = dict(type='MyCheckpointHook')
    prepared = prepare(cfg, TrainOptions())
    assert prepared.custom_hooks[:2] == cfg.custom_hooks[:2]
    assert hook_types(prepared).count('mmfasternet.FiniteLossHook') == 1
    assert 'mmdet.CheckInvalidLossHook' not in hook_types(prepared)  # it would look for the loss of a skipped batch
    assert (prepared.train_cfg, prepared.default_hooks.checkpoint) == (cfg.train_cfg, cfg.default_hooks.checkpoint)
    assert {'EpochBasedTrainLoop', 'CheckpointHook', 'FiniteLossHook'}.isdisjoint(prepared.mmfasternet.added)


def test_configs_of_others_import_what_they_name():
    cfg = load_config(COCO_CONFIG)
    assert prepare(cfg, TrainOptions()).custom_imports == cfg.custom_imports
    cfg.custom_imports = dict(imports='my_project.models')
    assert prepare(cfg, TrainOptions()).custom_imports.imports == ['my_project.models', 'mmfasternet']
    cfg.pop('custom_imports')
    assert prepare(cfg, TrainOptions()).custom_imports == dict(imports=['mmfasternet'], allow_failed_imports=False)


def test_a_config_without_a_model():
    with pytest.raises(UserError, match='has no model'):
        prepare(Config(dict(train_cfg=dict())), TrainOptions())


def test_auto_scale_lr():
    assert coco(auto_scale_lr=True).auto_scale_lr == dict(enable=True, base_batch_size=16)
    cfg = load_config(COCO_CONFIG)
    cfg.pop('auto_scale_lr')
    with pytest.raises(UserError, match='base_batch_size'):
        prepare(cfg, TrainOptions(auto_scale_lr=True))


def test_the_seed_is_in_the_config():
    assert isinstance(coco().randomness.seed, int)
    assert coco().randomness.seed != coco().randomness.seed
    deterministic = coco(deterministic=True).randomness
    assert deterministic == dict(deterministic=True, seed=0)
    cfg = load_config(COCO_CONFIG, {'randomness.seed': 5})
    assert prepare(cfg, TrainOptions(deterministic=True)).randomness == dict(deterministic=True, seed=5)


def test_amp_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(UserError, match='GPU'):
        coco(speed_ups=SpeedUps(amp='float16'))


def test_amp(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = load_config(COCO_CONFIG)
    for dtype, scale in (('float16', 'dynamic'), ('bfloat16', dict(enabled=False)), ('float16', 'dynamic')):
        cfg = prepare(cfg, TrainOptions(speed_ups=SpeedUps(amp=dtype)))
        wrapper = cfg.optim_wrapper
        assert (wrapper.type, wrapper.dtype, wrapper.loss_scale) == ('AmpOptimWrapper', dtype, scale)
        assert wrapper.optimizer.type == 'AdamW'
    assert 'mmfasternet.SpeedUpHook' in hook_types(cfg)
    cfg.optim_wrapper.loss_scale = 512.  # of the config's own
    cfg = prepare(cfg, TrainOptions(speed_ups=SpeedUps(amp='float16')))
    assert cfg.optim_wrapper.loss_scale == 512.
    cfg = prepare(cfg, TrainOptions(speed_ups=SpeedUps(amp='bfloat16')))
    assert cfg.optim_wrapper.loss_scale == dict(enabled=False)
    assert with_speed_ups(cfg, SpeedUps()).optim_wrapper.type == 'OptimWrapper'


@pytest.mark.parametrize('kind', ['AmpOptimWrapper', 'mmengine.AmpOptimWrapper'])
def test_without_a_gpu_it_trains_without_amp(monkeypatch, kind):
    cfg = load_config(IMAGENET_M_CONFIG, {'optim_wrapper.type': kind, 'optim_wrapper.dtype': 'bfloat16'})
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert prepare(cfg, TrainOptions()).optim_wrapper == cfg.optim_wrapper
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    wrapper = prepare(cfg, TrainOptions()).optim_wrapper
    assert wrapper.type == 'OptimWrapper' and not {'loss_scale', 'dtype'} & set(wrapper)
    assert wrapper.clip_grad.max_norm == 1


def test_several_processes_without_a_gpu_have_a_wrapper_without_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = prepare(load_config(COCO_CONFIG, launcher='pytorch'), TrainOptions())
    assert cfg.model_wrapper_cfg == dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None,
                                         find_unused_parameters=False)
    assert cfg.randomness == dict(seed=None)  # they draw one together


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr('shutil.which', lambda name: None)
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    with pytest.raises(UserError, match=r'install g\+\+, or run without compiling'):
        coco(speed_ups=SpeedUps(compile=True))


def test_all_pipelines_name_broken_images():
    for cfg in (coco(), prepared_test(load_config(COCO_CONFIG))):
        for split in ('train', 'val', 'test'):
            types = [t.type for t in cfg[f'{split}_dataloader'].dataset.pipeline]
            assert types.count('mmfasternet.LoadImageFromFile') == 1 and 'LoadImageFromFile' not in types


def test_samplers_of_tracks_stay_by_whatever_name():
    for kind in ('TrackImgSampler', 'mmdet.TrackImgSampler', TrackImgSampler, SeededSampler):
        cfg = load_config(COCO_CONFIG)
        cfg.train_dataloader.sampler = dict(type=kind)
        assert 'sampler' not in prepare(cfg, TrainOptions()).train_dataloader.sampler  # around which another would be


def test_augmentations_are_seeded_where_images_are_loaded():
    cfg = coco()
    sampler = load_config(COCO_CONFIG).train_dataloader.sampler
    assert cfg.train_dataloader.sampler == dict(type='mmfasternet.SeededSampler', sampler=sampler)
    types = [transform.type for transform in cfg.train_dataloader.dataset.pipeline]
    assert types[:2] == ['mmfasternet.SeedAugmentations', 'mmfasternet.LoadImageFromFile']
    digits = load_config(str(ROOT / 'configs' / 'fasternet_t0_digits.py'))  # which are no files
    digits = prepare(digits, TrainOptions())
    assert digits.train_dataloader.dataset.pipeline[0].type == 'mmfasternet.SeedAugmentations'
    assert cfg.val_dataloader.dataset.pipeline[0].type == 'mmfasternet.LoadImageFromFile'


def test_pipelines_that_a_hook_brings_in_are_seeded_too():
    cfg = load_config(COCO_CONFIG)
    cfg.custom_hooks = [dict(type='PipelineSwitchHook', switch_epoch=1,
                             switch_pipeline=copy.deepcopy(cfg.train_dataloader.dataset.pipeline))]
    types = [transform.type for transform in prepare(cfg, TrainOptions()).custom_hooks[0]['switch_pipeline']]
    assert types[:2] == ['mmfasternet.SeedAugmentations', 'mmfasternet.LoadImageFromFile']


def test_loops_by_iterations_keep_their_sampler():
    cfg = load_config(COCO_CONFIG)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=5)
    prepared = prepare(cfg, TrainOptions())
    assert prepared.train_dataloader.sampler == cfg.train_dataloader.sampler
    assert prepared.train_cfg.type == 'mmfasternet.IterBasedTrainLoop'


def test_show_dir_is_meant_as_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load_config(COCO_CONFIG)
    hook = prepared_test(cfg, show_dir='pictures').default_hooks.visualization.hook
    assert hook.draw and hook.test_out_dir == str(tmp_path / 'pictures')
    cfg.default_hooks.visualization.type = 'mmpretrain.VisualizationHook'
    hook = prepared_test(cfg, show_dir='pictures').default_hooks.visualization.hook
    assert hook.enable and hook.interval == 1 and hook.out_dir == str(tmp_path / 'pictures')
    cfg.default_hooks.pop('visualization')
    with pytest.raises(UserError, match='visualization'):
        prepared_test(cfg, show_dir='pictures')


def test_tta_of_a_detector():
    cfg = prepared_test(load_config(COCO_CONFIG), tta=True)
    assert cfg.model.type == 'mmfasternet.InstanceTTAModel' and cfg.model.module.type == 'MaskRCNN'
    assert cfg.model.tta_cfg == dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    flips, pack = cfg.test_dataloader.dataset.pipeline[-1].transforms
    assert [flip.prob for flip in flips] == [0, 1] and 'flip_direction' in pack[0].meta_keys


def test_tta_keeps_what_the_config_packs():
    cfg = load_config(COCO_CONFIG)
    cfg.test_dataloader.dataset.pipeline[-1].meta_keys = ('img_id', 'border', 'flip')
    pack = prepared_test(cfg, tta=True).tta_pipeline[-1]['transforms'][1][0]
    assert pack['meta_keys'] == ('img_id', 'border', 'flip', 'flip_direction')


def test_tta_without_a_pipeline():
    cfg = load_config(COCO_CONFIG)
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[])
    with pytest.raises(UserError, match='ConcatDataset'):
        prepared_test(cfg, tta=True)


def test_a_classifiers_views_are_not_drawn():
    with pytest.raises(UserError, match="--tta and --show-dir can't be combined"):
        prepared_test(load_config(IMAGENET_M_CONFIG), tta=True, show_dir='pictures')
    with pytest.raises(UserError, match="--tta and --show-dir can't be combined"):
        prepared_test(load_config(IMAGENET_M_CONFIG, {'default_hooks.visualization.enable': True}), tta=True)


def test_raw_predictions_are_an_evaluator_of_the_config():
    evaluators = prepared_test(load_config(COCO_CONFIG), out='raw.pkl').test_evaluator
    assert [each.type for each in evaluators] == ['mmfasternet.CocoMetric', 'mmdet.DumpDetResults']
    cfg = load_config(COCO_CONFIG)
    cfg.test_evaluator = dict(type='mmdet.MultiDatasetsEvaluator', metrics=cfg.test_evaluator, dataset_prefixes=['a'])
    evaluator = prepared_test(cfg, out='raw.pkl').test_evaluator
    assert [each.type for each in evaluator.metrics] == ['mmfasternet.CocoMetric', 'mmdet.DumpDetResults']
    with pytest.raises(UserError, match=r'must end with \.pkl'):
        prepared_test(load_config(COCO_CONFIG), out='raw.json')


def test_deploy_is_a_hook_of_the_config():
    cfg = prepared_test(load_config(COCO_CONFIG), deploy=DeployOptions(True, 'bfloat16', compile=True))
    assert cfg.custom_hooks[-1] == dict(type='mmfasternet.DeployHook', dtype='bfloat16', compile=True, graphs=False)
    assert cfg.test_cfg.type == 'mmfasternet.TestLoop'
    assert 'mmfasternet.DeployHook' not in hook_types(prepared_test(load_config(COCO_CONFIG)))


def test_exports_are_not_compiled_again(tmp_path):
    cfg = load_config(str(ROOT / 'configs' / 'fasternet_t0_digits.py'))
    assert with_exported(cfg, 'folder').model == ConfigDict(
        type='mmfasternet.ExportedClassifier', classifier=cfg.model, exported='folder', dtype='float32')
    cfg = load_config(str(SHAPES_CONFIG))
    with pytest.raises(UserError, match='--compile'):
        with_exported(cfg, str(tmp_path), DeployOptions(True, compile=True))
    with pytest.raises(UserError, match='--deploy'):
        with_exported(cfg, str(tmp_path), DeployOptions(True))
    cfg.launcher = 'pytorch'
    with pytest.raises(UserError, match='--launcher'):
        with_exported(cfg, str(tmp_path))
    cfg.launcher = 'none'
    assert with_exported(cfg, 'folder', DeployOptions(True, 'bfloat16')).model == ConfigDict(
        type='mmfasternet.ExportedDetector', detector=cfg.model, exported='folder', dtype='bfloat16')
    cfg = prepare(cfg, TestOptions(str(tmp_path), tta=True))
    assert cfg.model.type == 'mmfasternet.InstanceTTAModel' and cfg.model.module.type == 'mmfasternet.ExportedDetector'
    assert cfg.load_from is None


@pytest.mark.parametrize('key', ['bbox_color', 'text_color', 'mask_color', 'line_width', 'alpha'])
def test_a_visualizer_with_a_style_of_its_own_stays(key):
    cfg = load_config(str(SHAPES_CONFIG))
    cfg.visualizer[key] = 1
    assert not draw_readably(cfg) and cfg.visualizer.type == 'DetLocalVisualizer'
    cfg.visualizer.pop(key)
    assert draw_readably(cfg) and cfg.visualizer.type == 'mmfasternet.PictureVisualizer'
