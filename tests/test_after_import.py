"""Actions behind imports of others, which they must not disturb."""

import importlib.util
import inspect
import sys

import pytest

from mmfasternet import after_import as module
from mmfasternet.after_import import after_import


@pytest.fixture
def other(tmp_path, monkeypatch):
    """A module of another package, not imported yet; the finder forgets it after the test."""
    (tmp_path / 'others_module.py').write_text('value = 3\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module._FINDER, 'actions', {})
    yield 'others_module'
    sys.modules.pop('others_module', None)


def test_an_action_follows_the_import_and_each_reload(other):
    done = []
    after_import(other, lambda: done.append(sys.modules[other].value))
    after_import(other, lambda: done.append('another'))
    assert done == [] and other not in sys.modules
    imported = importlib.import_module(other)
    assert done == [3]
    importlib.import_module(other)
    assert done == [3]
    importlib.reload(imported)
    assert done == [3, 3]
    assert type(imported.__loader__) is type(imported.__spec__.loader) is type(module.__loader__)
    assert inspect.getsource(imported) == 'value = 3\n'


def test_an_action_is_done_at_once_where_the_module_is_imported(other):
    importlib.import_module(other)
    done = []
    after_import(other, lambda: done.append(1))
    assert done == [1]


def test_an_import_that_failed_has_its_action_the_next_time(other, tmp_path):
    done = []
    after_import(other, lambda: done.append(1))
    (tmp_path / 'others_module.py').write_text('import no_such_package\n')
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match='no_such_package'):
        importlib.import_module(other)
    assert done == []
    (tmp_path / 'others_module.py').write_text('value = 12345\n')
    importlib.invalidate_caches()
    assert importlib.import_module(other).value == 12345 and done == [1]


def test_an_action_that_fails_is_a_warning(other):
    after_import(other, lambda: 1 / 0)
    with pytest.warns(UserWarning, match='names could not be added to others_module: ZeroDivisionError'):
        assert importlib.import_module(other).value == 3


def test_a_module_that_is_not_there_is_still_missing(other):
    after_import('no_such_module_of_others', lambda: None)
    with pytest.raises(ModuleNotFoundError, match='no_such_module_of_others'):
        importlib.import_module('no_such_module_of_others')


def test_a_module_that_is_found_and_not_loaded_has_its_source(other):
    done = []
    after_import(other, lambda: done.append(1))
    assert importlib.util.find_spec(other).loader.get_source(other) == 'value = 3\n'
    assert done == [] and other not in sys.modules
