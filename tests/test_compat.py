"""The private names of other libraries: each is there and does what we rely on, and each stands in one module."""

import ast
import copy
import importlib
import inspect
import logging
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.apis import DetInferencer
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.evaluation import CocoMetric
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.roi_heads.bbox_heads import BBoxHead, Shared2FCBBoxHead
from mmdet.visualization import DetLocalVisualizer
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import CheckpointHook
from mmengine.infer import BaseInferencer
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import CheckpointLoader, Runner
from mmengine.visualization import Visualizer
from mmpretrain.apis import ImageClassificationInferencer
from torch import nn

import mmfasternet
from mmfasternet import compat
from mmfasternet.checkpoints import read_checkpoint, safe_loading
from mmfasternet.engine.building import build_model
from mmfasternet.engine.config import load_config
from mmfasternet.errors import UserError
from tests.conftest import ROOT, SHAPES_CONFIG, build

PACKAGE = ROOT / 'mmfasternet'
KEY = 'backbone.stages.0.downsample.conv.weight'
# Files that may hold private names: the module of them, and names that are no library's of today.
ALLOWED = {
    'compat.py': None,
    'checkpoints/numpy_pickles.py': {'_core', '_reconstruct'},  # names in files that numpy wrote, of any release
}
PUBLIC = {'os._exit'}  # documented, and without another name


# What is relied on: PyTorch


def test_batch_norms_have_one_base():
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
        assert issubclass(kind, compat.BatchNorm)
    assert not issubclass(nn.GroupNorm, compat.BatchNorm) and not issubclass(nn.LayerNorm, compat.BatchNorm)
    assert isinstance(nn.BatchNorm2d(2).running_mean, torch.Tensor)


def test_a_product_adds_bias_and_relu():
    bias, a, b = torch.randn(4), torch.randn(5, 3), torch.randn(3, 4)
    torch.testing.assert_close(compat.addmm_relu(bias, a, b), (bias + a @ b).clamp(min=0))


def test_tensors_are_copied_together():
    places = [torch.zeros(2), torch.zeros(3, dtype=torch.long)]
    compat.foreach_copy(places, [torch.tensor([1., 2.]), torch.tensor([3, 4, 5])])
    assert [x.tolist() for x in places] == [[1, 2], [3, 4, 5]]


def test_trees_of_tensors():
    tree = (torch.ones(1), [torch.ones(2), 'a'], dict(b=(torch.ones(3), None)))
    doubled = compat.tree_map_only(torch.Tensor, lambda x: x * 2, tree)
    assert doubled[1][1] == 'a' and isinstance(doubled[1], list) and doubled[2]['b'][0].tolist() == [2, 2, 2]
    assert [len(x) for x in compat.tree_leaves(tree) if isinstance(x, torch.Tensor)] == [1, 2, 3]
    assert compat.tree_leaves([['a'], ['b', 'c']]) == ['a', 'b', 'c']


class _Adding:

    def __call__(self, module, inputs, output=None):
        return inputs[0] + 1 if output is None else output + 1


def test_hooks_are_listed_and_removed_by_their_class():
    module, x = nn.ReLU(), torch.ones(1)
    module.register_forward_pre_hook(_Adding())
    module.register_forward_hook(_Adding())
    module.register_forward_hook(lambda module, inputs, output: output * 10)
    copied = copy.deepcopy(module)
    assert len(compat.forward_hooks(module)) == 3 and module(x) == 30
    compat.remove_forward_hooks(module, _Adding)
    assert len(compat.forward_hooks(module)) == 1 and module(x) == 10
    assert len(compat.forward_hooks(copied)) == 3 and copied(x) == 30
    compat.remove_forward_hooks(copied, _Adding)
    assert copied(x) == 10


def test_a_call_is_exchanged_and_brought_back():
    module, x = nn.ReLU(), torch.ones(1)
    module.register_forward_hook(_Adding())
    assert compat.compiled_call(module) is None
    compat.set_compiled_call(module, lambda x: x - 5)
    assert module(x) == -4 and copy.deepcopy(module)(x) == 2 and compat.plain_call(module)(x) == 2
    compat.set_compiled_call(module, None)
    assert module(x) == 2
    module.compile(backend='eager')
    assert compat.compiled_call(module) is not None and module(x) == 2
    compat.set_compiled_call(module, None)
    assert compat.compiled_call(module) is None


def test_the_keys_of_a_compiled_model_have_the_prefix():
    keys = list(torch.compile(nn.Linear(1, 1)).state_dict())
    assert keys == [compat.COMPILED_PREFIX + 'weight', compat.COMPILED_PREFIX + 'bias']


def test_fake_tensors_have_shapes_only():
    layer = nn.Conv2d(3, 4, 3)
    with compat.fake_tensors(), torch.no_grad():
        out = layer(torch.empty(100_000, 3, 1000, 1000))  # 1.2 TB
    assert out.shape == (100_000, 4, 998, 998)


def test_a_fake_copy_keeps_what_it_keeps_to_itself(capfd):

    class Caching(nn.Conv2d):
        grid = None

        def forward(self, x):
            self.grid = torch.zeros_like(x)
            self.register_buffer('positions', torch.ones(x.shape[-2:]))
            return super().forward(x)

    layer = Caching(3, 4, 3)
    layer.register_buffer('positions', torch.ones(2, 2))
    with compat.fake_copy(layer) as copied:
        assert copied(torch.empty(100_000, 3, 1000, 1000)).shape == (100_000, 4, 998, 998)
        with pytest.raises(RuntimeError):
            copied(torch.empty(1, 5, 9, 9))
    assert layer.grid is None and layer.positions.tolist() == [[1., 1.], [1., 1.]]
    assert capfd.readouterr().err == '' and layer(torch.ones(1, 3, 9, 9)).isfinite().all()


@pytest.mark.parametrize('limit', [3, 5])
def test_dynamo_compiles_so_many_times(limit):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    torch.compiler.reset()
    function = torch.compile(lambda x: x + 1, backend=backend, dynamic=False)
    with compat.recompilations(limit):
        for size in range(2, 9):
            assert function(torch.zeros(size)).sum() == size
    assert len(compiled) == limit
    torch.compiler.reset()


# MMEngine


class _Toy(BaseModel):

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x, mode='tensor'):
        out = self.layer(x)
        return dict(loss=out.square().sum()) if mode == 'loss' else [out]


class _Always(BaseMetric):

    def process(self, batch, samples):
        self.results.append(len(self.results))

    def compute_metrics(self, results):
        return dict(value=1.)


class _Recording(CheckpointHook):
    calls = []

    def _save_checkpoint_with_step(self, *args, **kwargs):
        self.calls.append('step')
        super()._save_checkpoint_with_step(*args, **kwargs)

    def _save_best_checkpoint(self, *args, **kwargs):
        self.calls.append('best')
        super()._save_best_checkpoint(*args, **kwargs)


@pytest.fixture
def runner(tmp_path):
    model = _Toy()
    data = dict(dataset=[(torch.ones(1), )] * 4, sampler=dict(type='DefaultSampler', shuffle=False), batch_size=2,
                collate_fn=dict(type='default_collate'))
    return Runner(
        model, str(tmp_path), train_dataloader=data, val_dataloader=copy.deepcopy(data),
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1, dynamic_intervals=[(3, 7)]), val_cfg=dict(),
        val_evaluator=Evaluator(_Always()), optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), 0.)),
        experiment_name=tmp_path.name, log_level='ERROR', default_scope='mmengine',
        default_hooks=dict(checkpoint=_Recording(interval=1, save_best='value', rule='greater')))


def test_what_was_being_built_is_known_of_an_error():
    inner = dict(type='mmfasternet.FasterNet', arch='t0', norm_cfg=dict(type='GN', num_groups=32))
    cfg = dict(type='ImageClassifier', backbone=inner)
    with pytest.raises(UserError) as caught:
        build(cfg, 'mmpretrain')
    (outer, registry), (failed, _) = compat.failed_builds(caught.value)
    assert outer == cfg and failed == inner and registry.name == 'model'
    assert compat.failed_builds(ValueError()) == []


def test_names_are_those_that_a_config_of_a_scope_may_give():
    with MODELS.switch_scope_and_registry('mmdet') as registry:
        names = compat.registered_names(registry)
        assert {'MaskRCNN', 'BN', 'mmfasternet.FasterNet', 'mmpretrain.ImageClassifier'} <= set(names)
        assert all(registry.get(name) for name in ('MaskRCNN', 'BN', 'mmfasternet.LN2d', 'mmpretrain.ResNet'))
    assert 'mmdet.MaskRCNN' not in names and 'ImageClassifier' not in names


def test_loops_are_found_once_they_are_built(runner):
    assert compat.built_loops(runner) == [] and compat.built_train_loop(runner) is None
    loop = runner.train_loop
    assert compat.built_train_loop(runner) is loop and compat.built_loops(runner) == [loop]
    assert compat.built_loops(runner) + [runner.val_loop] == compat.built_loops(runner)


def test_a_loops_progress_is_set(runner):
    loop = runner.train_loop
    compat.set_progress(loop, epoch=1)
    assert (runner.epoch, runner.iter) == (1, 0)
    compat.set_progress(loop, iteration=3)
    assert (runner.epoch, runner.iter) == (1, 3)
    compat.update_val_interval(loop)
    assert loop.val_interval == 1
    compat.set_progress(loop, epoch=2)
    compat.update_val_interval(loop)
    assert loop.val_interval == 7


def test_batches_are_counted_for_accumulation():
    parameter = nn.Parameter(torch.zeros(1))
    wrapper = OptimWrapper(torch.optim.SGD([parameter], 0.), accumulative_counts=3)
    wrapper.initialize_count_status(nn.Linear(1, 1), 0, 30)
    assert compat.accumulation(wrapper) == 3 and compat.accumulation(OptimWrapperDict(a=wrapper)) == 1
    for done in (False, False, True, False):
        compat.count_batch(wrapper)
        assert wrapper.should_update() == done


def test_schemes_are_read_and_set(tmp_path):
    before = compat.checkpoint_schemes()
    assert {'', 'https://', 'mmcls://'} <= set(before)
    try:
        CheckpointLoader.register_scheme('', lambda path, map_location=None: dict(of=path), force=True)
        assert CheckpointLoader.load_checkpoint('a.pth') == dict(of='a.pth')
        assert compat.checkpoint_schemes()[''] is not before['']
    finally:
        CheckpointLoader.register_scheme('', before[''], force=True)
    assert compat.checkpoint_schemes() == before


def test_checkpoints_of_mmengine(tmp_path, monkeypatch):
    backbone = compat.mmcls_backbone(dict(state_dict={'backbone.a': 1, 'head.b': 2}, meta={}))
    assert backbone == dict(state_dict=dict(a=1))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'home'))
    assert Path(compat.mmengine_home()) == tmp_path / 'home'
    methods = compat.one_cycle_methods()
    assert methods['_annealing_linear'](1., 3., 0.25) == 1.5
    assert methods['_annealing_cos'](1., 3., 0.25) == pytest.approx(2 - 2**-0.5)


def _overridden():
    for path in compat.OVERRIDDEN:
        module, owner, method = path.rsplit('.', 2)
        yield path, getattr(importlib.import_module(module), owner), method


@pytest.mark.parametrize('path, owner, method', _overridden())
def test_methods_that_are_overridden_have_their_parameters(path, owner, method):
    assert method in vars(owner)
    assert tuple(inspect.signature(vars(owner)[method]).parameters) == ('self', *compat.OVERRIDDEN[path])


def test_methods_that_are_overridden_are_called_by_mmengine(runner, tmp_path):
    _Recording.calls.clear()
    runner.train()
    assert _Recording.calls == ['step', 'best', 'step', 'step', 'best']  # the first is the best, and says so
    assert (tmp_path / 'epoch_2.pth').exists()


def test_methods_that_are_overridden_are_called_by_mmdetection():
    calls = []

    class Recording(DetInferencer):

        def _load_weights_to_model(self, model, checkpoint, cfg):
            calls.append((type(model).__name__, checkpoint, cfg.model.type))
            super()._load_weights_to_model(model, checkpoint, cfg)

        def _init_collate(self, cfg):
            calls.append('collate')
            return super()._init_collate(cfg)

    Recording(load_config(str(SHAPES_CONFIG)), device='cpu')
    assert calls == [('MaskRCNN', None, 'MaskRCNN'), 'collate']


def test_an_inferencer_checks_before_it_loads(trained, capfd):
    checkpoint, seen = str(trained / 'epoch_2.pth'), []

    def check(model, content):
        seen.append((torch.equal(model.state_dict()[KEY], content['state_dict'][KEY]), 'meta' in content))

    with safe_loading():
        inferencer = compat.det_inferencer(load_config(str(SHAPES_CONFIG)), checkpoint, 'cpu', check)
    assert 'registry' not in capfd.readouterr().err
    assert seen == [(False, True)]
    assert torch.equal(inferencer.model.state_dict()[KEY], read_checkpoint(checkpoint)['state_dict'][KEY])


@pytest.mark.parametrize('collate_fn, type_of_inputs', [
    (None, list), ('default_collate', torch.Tensor), (dict(type='default_collate'), torch.Tensor)])
def test_an_inferencer_has_the_configs_collate_function(collate_fn, type_of_inputs):
    cfg = load_config(str(SHAPES_CONFIG))
    if collate_fn:
        cfg.test_dataloader.collate_fn = collate_fn
    inferencer = compat.det_inferencer(cfg, None, 'cpu', lambda *_: None)
    batch = inferencer.collate_fn([dict(inputs=torch.zeros(2)), dict(inputs=torch.ones(2))])
    assert type(batch['inputs']) is type_of_inputs


def test_an_inferencer_takes_a_classifier_that_is_built():
    cfg = load_config(str(ROOT / 'configs' / 'fasternet_t0_in1k.py'))
    model = build_model(cfg)
    inferencer = compat.image_classification_inferencer(cfg, model, dict(classes=('a', 'b')))
    assert inferencer.model is model and inferencer.classes == ('a', 'b') and inferencer.config is cfg
    assert isinstance(inferencer, ImageClassificationInferencer)


# MMDetection


def test_more_models_are_listed_with_a_package(monkeypatch):
    monkeypatch.setattr(BaseInferencer, '_get_models_from_metafile', BaseInferencer._get_models_from_metafile)
    before = BaseInferencer.list_models('mmpretrain'), BaseInferencer.list_models('mmdet')
    compat.list_models_also('mmpretrain', lambda: iter([dict(Name='none_such', Config='/a.py', Weights=None)]))
    assert BaseInferencer.list_models('mmpretrain') == [*before[0], 'none_such']
    assert BaseInferencer.list_models('mmdet') == before[1]


def test_other_packages_are_listed_without_the_one_that_gets_more(monkeypatch):
    monkeypatch.setattr(BaseInferencer, '_get_models_from_metafile', BaseInferencer._get_models_from_metafile)
    compat.list_models_also('no_such_package', lambda: iter([dict(Name='none_such')]))
    assert 'none_such' not in BaseInferencer.list_models('mmpretrain')


def test_what_a_preprocessor_does():
    plain, other = DetDataPreprocessor(), DetDataPreprocessor(mean=[1.] * 3, std=[2.] * 3, bgr_to_rgb=True)
    assert not compat.normalizes(plain) and not compat.swaps_channels(plain)
    assert compat.normalizes(other) and compat.swaps_channels(other)
    image = torch.tensor([1., 3., 5.])[:, None, None].expand(3, 2, 2)
    assert other(dict(inputs=[image]))['inputs'][0, :, 0, 0].tolist() == [2, 1, 0]


def test_heads_are_applied_to_what_the_extractor_pools():
    torch.manual_seed(0)
    head = build(load_config(str(SHAPES_CONFIG)).model).roi_head.eval()
    maps = [torch.rand(1, head.bbox_roi_extractor.out_channels, size, size) for size in (32, 16, 8, 4)]
    rois = torch.tensor([[0., 4., 8., 60., 70.], [0., 10., 10., 30., 20.]])
    with torch.no_grad():
        found = compat.box_forward(head, maps, rois)
        scores, deltas = head.bbox_head(head.bbox_roi_extractor(maps, rois))
        assert torch.equal(found['cls_score'], scores) and torch.equal(found['bbox_pred'], deltas)
        masks = head.mask_head(head.mask_roi_extractor(maps, rois))
        assert torch.equal(compat.mask_forward(head, maps, rois)['mask_preds'], masks)


def test_heads_that_find_boxes_alike():

    class Other(BBoxHead):

        def _predict_by_feat_single(self, *args, **kwargs):
            return None

    assert compat.finds_boxes_like(Shared2FCBBoxHead, BBoxHead) and not compat.finds_boxes_like(Other, BBoxHead)
    assert '_predict_by_feat_single' in inspect.getsource(BBoxHead.predict_by_feat)  # which calls it


def test_masks_are_pasted_into_their_boxes():
    pasted = compat.paste_masks(torch.ones(1, 1, 4, 4), torch.tensor([[2., 1., 6., 5.]]), 8, 9)
    expected = torch.zeros(1, 8, 9)
    expected[:, 1:5, 2:6] = 1
    assert torch.equal((pasted >= 0.5).float(), expected)


# Where they stand


def test_the_module_itself_comes_without_mmdetection_and_runners():
    code = (f'import runpy, sys; runpy.run_path({str(PACKAGE / "compat.py")!r}); '
            'print([name for name in ("mmdet", "mmpretrain", "mmengine.runner") if name in sys.modules])')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == '[]\n'


def test_each_name_is_touched_here():
    source = Path(__file__).read_text()
    tree = ast.parse(inspect.getsource(compat))
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    names += [target.id for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))
              for target in (node.targets if isinstance(node, ast.Assign) else [node.target])]
    names += [alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
              if alias.asname]
    assert {'OVERRIDDEN', 'BatchNorm', 'addmm_relu', 'tree_leaves', 'paste_masks'} <= set(names)
    names.remove('exit_codes')  # touched by tests/cli/test_launch.py, with processes
    assert [name for name in names if not re.search(rf'\bcompat\.{name}\b', source)] == []


def _is_private(name):
    return re.fullmatch(r'_[A-Za-z]\w*(?<!_)', name) is not None or name.startswith('_foreach_')


def _own_names(tree):
    """What a file defines itself: functions, classes, arguments, variables, and attributes of its own objects."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == 'self':
            yield node.attr


def private_names(source):
    """Line and text of each private name in a file that it does not define itself."""
    tree = ast.parse(source)
    own, parts_of_text = set(_own_names(tree)), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):  # such as f'{kind}_head'
            parts_of_text.update(id(value) for value in node.values[1:])
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Attribute):
            names = [node.attr] if node.attr not in own else []
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split('.')]
        elif isinstance(node, ast.ImportFrom) and not (node.module or 'mmfasternet').startswith('mmfasternet'):
            names = [*node.module.split('.'), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts_of_text:
            names = [part for part in node.value.split('.') if part not in own] if ' ' not in node.value else []
        if any(map(_is_private, names)) and ast.unparse(node) not in PUBLIC:
            yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize('source, found', [
    ('from torch.nn.modules.batchnorm import _BatchNorm', 1),
    ('from torch._subclasses.fake_tensor import FakeTensorMode', 1),
    ('import torch._dynamo as dynamo', 1),
    ('runner._train_loop.run()', 1),
    ("getattr(wrapper, '_accumulative_counts', 1)", 1),
    ("monkeypatch.setattr('mmengine.runner.Runner._hooks', [])", 1),
    ('torch._foreach_copy_(a, b)', 1),
    ('class A:\n    def f(self):\n        return self._g()', 1),
    ('class A:\n    def f(self):\n        return self._g()\n    def _g(self):\n        return self.__dict__', 0),
    ("getattr(model, f'{kind}_head'), dict(_base_=1)['_delete_'], os._exit(0)", 0),
    ('from mmfasternet.files import _is_running', 0),
])
def test_the_search_finds_private_names(source, found):
    assert len(list(private_names(source))) == found


def test_private_names_stand_in_one_module():
    found = []
    for folder in (PACKAGE, ROOT / 'tools'):
        for file in sorted(folder.rglob('*.py')):
            name = file.relative_to(folder).as_posix()
            allowed = ALLOWED.get(name, set()) if folder is PACKAGE else set()
            if allowed is not None:
                found += [f'{name}:{line}: {text}' for line, text in private_names(file.read_text())
                          if text.strip("'") not in allowed]
    assert found == []


def _classes():
    for info in pkgutil.walk_packages(mmfasternet.__path__, 'mmfasternet.'):
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if inspect.isclass(value) and value.__module__ == info.name:
                yield value


def _theirs(kind, name):
    """The class of another library below one of ours that defines or uses a private name."""
    for base in kind.__mro__[1:]:
        if not base.__module__.startswith(('mmfasternet', 'builtins', 'abc', 'typing')):
            if re.search(rf'\b(self\.|def ){name}\b', inspect.getsource(base)):
                yield base


def test_the_index_of_a_metric(shapes):
    metric = CocoMetric()
    assert compat.coco_api(metric) is None
    compat.set_coco_api(metric, COCO(str(shapes / 'annotations' / 'instances_val.json')))
    assert len(compat.coco_api(metric).imgs) == 6
    read = CocoMetric(ann_file=str(shapes / 'annotations' / 'instances_val.json'))
    assert compat.coco_api(read).imgs == compat.coco_api(metric).imgs


def test_the_evaluators_of_a_metric():
    names = {'COCOeval', 'COCOevalMP'}
    code = CocoMetric.compute_metrics.__code__
    assert names <= set(code.co_names) and not code.co_freevars  # nor does it need a closure
    metric = CocoMetric(metric='bbox', format_only=False)
    metric.dataset_meta = dict(classes=('cat', ))
    box = dict(bbox=[0, 0, 9, 9], bbox_label=0)
    prediction = dict(img_id=1, bboxes=torch.tensor([[0., 0, 9, 9]]).numpy(), scores=[1.], labels=[0])
    results = [(dict(img_id=1, width=20, height=20, anns=[box]), prediction)]
    asked = []

    def evaluator(*args):
        asked.append(args[-1])
        return COCOeval(*args)

    before = {name: CocoMetric.compute_metrics.__globals__[name] for name in names}
    expected = metric.compute_metrics(results)
    assert compat.coco_metrics_by(metric, results, COCOeval=evaluator) == expected and asked == ['bbox']
    assert {name: CocoMetric.compute_metrics.__globals__[name] for name in names} == before


def test_instances_are_those_of_before(tmp_path):
    kinds = (MMLogger, MessageHub, Visualizer, DefaultScope)
    before = [dict(kind._instance_dict) for kind in kinds]
    with pytest.raises(RuntimeError), compat.instances_restored():
        logger = MMLogger.get_instance('within', log_file=str(tmp_path / 'log'))
        Visualizer.get_instance('within', vis_backends=[])
        assert MMLogger.get_current_instance() is logger
        raise RuntimeError
    assert [dict(kind._instance_dict) for kind in kinds] == before
    assert [handler.stream for handler in logger.handlers if isinstance(handler, logging.FileHandler)] == [None]


def test_no_other_private_name_of_a_base_class_is_overridden():
    found, known = [], ['.'.join(path.split('.')[-2:]) for path in compat.OVERRIDDEN]
    for kind in _classes():
        source = inspect.getsource(kind)
        for name in sorted(set(re.findall(r'(?:self\.|def )(_[a-z]\w*)', source))):
            found += [f'{kind.__qualname__}.{name} of {base.__qualname__}' for base in _theirs(kind, name)
                      if f'{base.__name__}.{name}' not in known]
    assert found == []


def test_a_visualizer_is_forgotten_but_no_later_one_of_its_name():
    first = DetLocalVisualizer.get_instance('of a run')
    assert DetLocalVisualizer.get_instance('of a run') is Visualizer.get_instance('of a run') is first
    compat.forget_visualizer(first)
    second = DetLocalVisualizer.get_instance('of a run')
    compat.forget_visualizer(first)
    assert DetLocalVisualizer.get_instance('of a run') is Visualizer.get_instance('of a run') is second is not first
