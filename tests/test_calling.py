import subprocess
import sys

import pytest

from mmfasternet.calling import called_as, program
from tests.conftest import ROOT


@pytest.mark.parametrize('path, typed, called', [
    ('/usr/local/bin/mmfasternet', 'mmfasternet', 'mmfasternet train'),
    (str(ROOT / 'mmfasternet' / '__main__.py'), 'python -m mmfasternet', 'python -m mmfasternet train'),
    ('tools/train.py', 'python tools/train.py', 'python tools/train.py'),
    ('/my code/tools/train.py', "python '/my code/tools/train.py'", "python '/my code/tools/train.py'"),
    ('my_training.py', 'python my_training.py', 'mmfasternet train'),
    ('/other/__main__.py', 'python /other/__main__.py', 'mmfasternet train'),
    ('', "python ''", 'mmfasternet train'),  # an interactive session
])
def test_it_is_spelled_as_it_was_typed(monkeypatch, path, typed, called):
    monkeypatch.setattr(sys, 'argv', [path, '--amp'])
    assert program() == typed and called_as('train') == called


def test_what_python_says_of_m():
    result = subprocess.run([sys.executable, '-m', 'mmfasternet'], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.startswith('usage: python -m mmfasternet COMMAND')
