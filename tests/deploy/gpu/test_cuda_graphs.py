import copy

import pytest
import torch
from torch import nn

from mmfasternet.compat import compiled_call, set_compiled_call, tree_leaves
from mmfasternet.deploy import to_deploy
from mmfasternet.deploy.gpu import cuda_graphs
from mmfasternet.deploy.gpu.cuda_graphs import Graph, GraphPool, padded
from mmfasternet.errors import ArgumentError
from mmfasternet.models import FasterNet

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')


@pytest.fixture
def recorded(monkeypatch):
    """Graphs of a machine without a GPU: a replay computes anew into the memory of the first outputs."""
    counts = []

    def record(function, pool=None):
        counts.append(pool)
        outputs = function()

        def replay():
            for place, value in zip(tree_leaves(outputs), tree_leaves(function())):
                place.copy_(value)

        return outputs, replay

    monkeypatch.setattr(cuda_graphs, 'record', record)
    return counts


def test_a_graph_reads_its_inputs_and_keeps_its_outputs(recorded):
    pool = GraphPool()
    first = Graph(lambda x: [x + 1, x * 2], pool)
    second = Graph(lambda x, maps: (maps[0] + maps[1] + x, maps), pool)
    for value in (1., 5.):
        maps = first(torch.full((2, 3), value))
        assert [m.unique().item() for m in maps] == [value + 1, value * 2]
        total, read = second(torch.ones(()), maps)
        assert total.unique().item() == 3 * value + 2
        assert all(one is other for one, other in zip(read, maps))  # not copied
    assert len(recorded) == 2
    assert first(torch.ones(2, 3))[0] is maps[0]
    first(torch.ones(4, 3))
    first(torch.ones(2, 3).half())
    assert len(recorded) == 4


def test_old_recordings_make_room(recorded, monkeypatch):
    monkeypatch.setattr(cuda_graphs, 'MAX_RECORDINGS', 2)
    graph = Graph(lambda x: x + 1, GraphPool())
    for size in (1, 2, 3, 3, 2, 1):
        assert torch.equal(graph(torch.ones(size)), torch.full((size, ), 2.))
    assert len(recorded) == 4


def test_images_are_padded_to_the_first_size_that_holds_them():
    sizes = [(64, 96), (96, 64)]
    for size, expected in (((60, 90), (64, 96)), ((90, 40), (96, 64)), ((64, 64), (64, 96)), ((100, 40), (100, 40))):
        x = torch.rand(2, 3, *size)
        out = padded(x, sizes)
        assert out.shape[2:] == expected
        assert torch.equal(out[:, :, :size[0], :size[1]], x) and out.sum() == pytest.approx(x.sum().item(), rel=1e-5)
    exact = torch.rand(1, 3, 64, 96)
    assert padded(exact, sizes) is exact


def test_a_module_is_replayed_with_its_hooks_and_a_copy_is_not(recorded):
    module = nn.Conv2d(3, 4, 1)
    module.register_forward_hook(lambda module, inputs, output: output + 1)
    cuda_graphs.replay_calls(module, GraphPool(), [(8, 8)])
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        expected = module.forward(x) + 1
        assert torch.equal(module(x), expected) and torch.equal(module(x[:, :, :6])[:, :, :6], expected[:, :, :6])
        assert len(recorded) == 1
        assert torch.equal(copy.deepcopy(module)(x), expected) and len(recorded) == 1


def test_a_replay_is_taken_back_and_never_of_a_replay(recorded):
    module, compiled = nn.Conv2d(3, 4, 1), []
    set_compiled_call(module, lambda x: compiled.append(1) or module.forward(x))
    own, x = compiled_call(module), torch.rand(1, 3, 8, 8)
    for _ in range(2):
        cuda_graphs.replay_calls(module, GraphPool())
    with torch.no_grad():
        module(x)
    assert len(recorded) == 1 and compiled
    for _ in range(2):
        cuda_graphs.remove_replay(module)
        assert compiled_call(module) is own


def test_graphs_need_a_gpu():
    with pytest.raises(ArgumentError, match='graphs=True needs a model on a GPU'):
        to_deploy(FasterNet('t0'), graphs=True)


@GPU
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_a_backbone_on_a_gpu(dtype):
    backbone = FasterNet('t0').cuda().eval()
    plain, graphed = to_deploy(backbone, dtype=dtype), to_deploy(backbone, dtype=dtype, graphs=True)
    with torch.no_grad():
        for size in (64, 96, 64, 96):
            x = torch.rand(2, 3, size, size, device='cuda')
            for actual, expected in zip(graphed(x), plain(x)):
                torch.testing.assert_close(actual, expected)
