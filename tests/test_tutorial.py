"""The notebook for newcomers: its form, and that it runs from end to end."""

import ast
import json
import re

import nbformat
import pytest
from nbclient import NotebookClient

from mmfasternet.config_files import config_path
from tests.conftest import ROOT, needs_export

PATH = ROOT / 'docs' / 'tutorial.ipynb'
NOTEBOOK = nbformat.read(PATH, as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == 'code']
#: In the place of the values of the first cell: what takes seconds. Scores are low after a step.
SHORT = "work, num_train, num_val, image_size, epochs, threshold = Path('FOLDER'), 8, 4, 96, 1, 0.05"


def test_it_is_a_valid_notebook_without_outputs():
    nbformat.validate(json.loads(PATH.read_text()))
    assert (NOTEBOOK.nbformat, NOTEBOOK.nbformat_minor) == (4, 5)
    assert {*NOTEBOOK.metadata} == {'kernelspec', 'language_info'} and NOTEBOOK.metadata.kernelspec.name == 'python3'
    assert {*NOTEBOOK.metadata.language_info} == {'name'}
    assert all(cell.outputs == [] and cell.execution_count is None for cell in CODE)
    assert [cell.metadata for cell in CODE] == [dict(tags=['parameters'])] + [{}] * (len(CODE) - 1)


def test_cells_have_ids_of_their_own():
    ids = [cell.id for cell in NOTEBOOK.cells]
    assert len(set(ids)) == len(ids) and not [name for name in ids if not re.fullmatch('[a-z]+(-[a-z]+)*', name)]


def test_it_is_written_in_one_way():
    """What editors change by themselves would hide what changed."""
    content = json.loads(PATH.read_text())
    assert PATH.read_text() == json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + '\n'


def test_code_is_python_with_no_commands_of_the_shell():
    for cell in CODE:
        ast.parse(cell.source)


def test_its_first_cell_holds_all_that_the_short_run_sets():
    def assigned(source):
        return {node.id for node in ast.walk(ast.parse(source))
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}

    assert assigned(SHORT) == assigned(CODE[0].source)


def test_configs_and_links_that_it_names_exist():
    text = '\n'.join(cell.source for cell in NOTEBOOK.cells)
    names = re.findall(r"config_path\('(\w+)'\)", text)
    links = re.findall(r'\]\(([^)]+)\)', '\n'.join(cell.source for cell in NOTEBOOK.cells
                                                   if cell.cell_type == 'markdown'))
    assert names and links
    for name in names:
        config_path(name)
    assert [link for link in links if not (PATH.parent / link).is_file()] == []


def printed(cell):
    return ''.join(output.text for output in cell.outputs if output.output_type == 'stream' and output.name == 'stdout')


@pytest.mark.slow
@needs_export
def test_it_runs_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    notebook = nbformat.from_dict(NOTEBOOK)
    first = next(index for index, cell in enumerate(notebook.cells) if cell.cell_type == 'code')
    notebook.cells.insert(first + 1, nbformat.v4.new_code_cell(SHORT.replace('FOLDER', str(tmp_path / 'work'))))
    (tmp_path / 'elsewhere').mkdir()
    NotebookClient(notebook, timeout=1500, kernel_name='python3',
                   resources=dict(metadata=dict(path=str(tmp_path / 'elsewhere')))).execute()
    assert [*(tmp_path / 'elsewhere').iterdir()] == []
    cells = {cell.id: cell for cell in notebook.cells}
    assert len(CODE) == len([cell for cell in notebook.cells if cell.get('execution_count')]) - 1
    for name in ('show-data', 'show-curves', 'show-predictions'):
        assert [output for output in cells[name].outputs if 'image/png' in output.get('data', {})], name
    out = {name: printed(cell) for name, cell in cells.items() if cell.cell_type == 'code'}
    assert "'type': 'mmfasternet.FasterNet'" in out['write-config']
    assert re.search(r'^Epoch\(train\) +\[1\]\[2/2\].* loss: \d', out['run-training'], re.M)
    assert re.search(r'^2 iterations in \d+ s: epoch_1.pth$', out['run-training'], re.M)
    as_trained, deployed = (ast.literal_eval(value) for value in re.findall(
        r'^(?:as trained|deployed): +(\{.*\})$', out['run-deployed'], re.M))
    assert ast.literal_eval(out['run-evaluation']) == as_trained
    assert deployed == pytest.approx(as_trained, abs=1e-3) and as_trained.keys() == {
        'bbox_mAP', 'bbox_mAP_50', 'segm_mAP', 'segm_mAP_50'}
    before, after = map(int, re.search(r'deployed: (\d+) (\d+)$', out['run-deployed'], re.M).groups())
    assert before == after > 0
    assert float(re.search('largest difference of a score: (.*)', out['run-deployed'])[1]) < 1e-4
    assert float(re.search('largest difference to PyTorch: (.*?) of', out['run-export'])[1]) <= 1e-4
    found, exported = (ast.literal_eval(value) for value in re.findall(r'(\[.*\])', out['run-onnx']))
    assert found and [score for _, score in exported] == pytest.approx([score for _, score in found], abs=1e-3)
