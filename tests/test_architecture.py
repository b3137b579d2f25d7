"""The rules of docs/architecture.md, held against the code."""

import ast
import re
from collections import Counter
from graphlib import TopologicalSorter

import pytest

from tests.conftest import ROOT

DOCUMENT = (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8')
LINES = re.search(r'```rooms\n(.*?)```', DOCUMENT, re.DOTALL)[1].split('\n')[:-1]
LEVELS = {room: len(LINES) - index for index, line in enumerate(LINES) for room in line.split()}
MODULES = {'.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
           for folder in ('mmfasternet', 'tools') for path in (ROOT / folder).rglob('*.py')
           if '.mim' not in path.parts}  # in an sdist that holds copies of the tools


def room_of(module):
    """Of a module of the package its folder or its own name, and the package itself is above all."""
    parts = module.split('.')
    return 'tools' if parts[0] == 'tools' else parts[1] if len(parts) > 1 else None


def imports_of(module, nested=True):
    """Our modules that a module imports, with ``nested`` within functions, too."""
    tree = ast.parse(MODULES[module].read_text(encoding='utf-8'))
    package = module if MODULES[module].name == '__init__.py' else module.rpartition('.')[0]
    for node in ast.walk(tree) if nested else tree.body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(package.split('.')[:len(package.split('.')) - node.level + 1]) if node.level else ''
            base = '.'.join(filter(None, (base, node.module)))
            names = [f'{base}.{alias.name}' if f'{base}.{alias.name}' in MODULES else base for alias in node.names]
        yield from (name for name in names if name.partition('.')[0] in ('mmfasternet', 'tools'))


def test_all_rooms_are_in_the_document():
    assert {room_of(module) for module in MODULES} - {None} == set(LEVELS)


@pytest.mark.parametrize('module', sorted(MODULES))
def test_imports_go_down(module):
    own = room_of(module)
    if own is None:
        return  # the package itself, whose names are imported when asked for
    for imported in imports_of(module):
        other = room_of(imported)
        assert other is None or other == own or LEVELS[other] < LEVELS[own], f'{module} imports {imported}'


def test_no_module_imports_itself_by_others():
    graph = {module: {name for name in imports_of(module, nested=False) if name in MODULES and name != module}
             for module in MODULES if MODULES[module].name != '__init__.py'}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)  # it raises CycleError


def test_a_module_name_is_there_once():
    names = Counter(path.stem for module, path in MODULES.items()
                    if path.stem != '__init__' and module.startswith('mmfasternet.'))
    assert [name for name, count in names.items() if count > 1] == []


def test_the_document_is_short_and_its_links_lead_somewhere():
    assert len(DOCUMENT.splitlines()) <= 120
    links = re.findall(r'\]\((?!http)([^)#]+)\)', DOCUMENT)
    assert links and all((ROOT / 'docs' / link).exists() for link in links)
    for path in re.findall(r'`((?:models|checkpoints|datasets|deploy|engine|benchmark)/[\w/.]+)`', DOCUMENT):
        assert (ROOT / 'mmfasternet' / path).exists(), path
