"""Processes that are forked from a server that has imported what they need: the imports take 10 s."""

import gc
import multiprocessing
import os
import sys
from types import SimpleNamespace

CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['mmdet.apis', 'mmdet.models', 'mmdet.datasets', 'mmpretrain.models',
                                'mmpretrain.datasets', 'mmfasternet.engine.train_test', 'mmfasternet.models',
                                'mmfasternet.datasets'])


def redirect(out, err):
    """Let what this process prints, libraries in C included, go to the end of two files, which may be one."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(number, 'w', buffering=1) for number in (1, 2))


def _run(words, folder, environment, out, err):
    redirect(out, err)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = words
    gc.freeze()  # as in conftest.py
    from mmfasternet.cli.command import main
    main()


def run_command(words, folder, environment, logs, seconds=600):
    """Run the command ``mmfasternet``, as ``subprocess.run`` would; ``logs`` is a folder for its output."""
    out, err = logs / 'out', logs / 'err'
    process = CONTEXT.Process(target=_run, args=(words, str(folder), environment, str(out), str(err)))
    for path in (out, err):
        path.write_text('')
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f'{words}\n{err.read_text()[-3000:]}')
    return SimpleNamespace(returncode=process.exitcode, stdout=out.read_text(), stderr=err.read_text())
