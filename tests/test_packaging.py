"""What is installed: the wheel beside the pinned packages, as users have it."""

import subprocess

from tests.conftest import ROOT


def run(*command, **kwargs):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_wheel_is_what_is_imported(wheel_python, wheel_venv):
    folder = run(wheel_python, '-c', 'import mmfasternet; print(*mmfasternet.__path__)').strip()
    assert folder.startswith(str(wheel_venv)) and not folder.startswith(str(ROOT))
