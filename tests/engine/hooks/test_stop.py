import sys

import pytest

from mmfasternet.engine.hooks.stop import how_to_resume


@pytest.mark.parametrize('given', [[], ['--resume'], ['--resume', 'a b.pth'], ['--resume=a.pth']])
def test_the_command_to_go_on_with(monkeypatch, given):
    for variable in ('WORLD_SIZE', 'SLURM_PROCID'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', 'my config.py', *given, '--amp'])
    assert how_to_resume() == "python tools/train.py 'my config.py' --amp --resume"
    monkeypatch.setattr(sys, 'argv', ['/usr/bin/mmfasternet', 'train', 'my config.py', *given, '--amp'])
    assert how_to_resume() == "mmfasternet train 'my config.py' --amp --resume"
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert how_to_resume() == 'the same command with --resume'
