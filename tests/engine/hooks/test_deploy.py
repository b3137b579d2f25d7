from types import SimpleNamespace

from mmfasternet.deploy import DeployedBlock
from mmfasternet.engine.hooks import DeployHook
from mmfasternet.models import FasterNet


def num_deployed(model):
    return sum(isinstance(module, DeployedBlock) for module in model.modules())


def test_the_hook_gives_the_model_back():
    model = FasterNet('t0')
    runner = SimpleNamespace(model=model, cfg=None)
    hook = DeployHook()
    for end in (hook.after_test_epoch, hook.after_loop):  # in order, or after an error
        hook.before_test_epoch(runner)
        assert num_deployed(runner.model) == 13
        end(runner)
        assert runner.model is model and num_deployed(model) == 0
    hook.after_loop(runner)  # both, where there was no error
    assert runner.model is model
