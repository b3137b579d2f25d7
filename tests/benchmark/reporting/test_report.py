import csv
import io
import re

import pytest
from matplotlib.figure import Figure
from PIL import Image

from mmfasternet.benchmark.reporting.plots import by_family, histograms, roofline, stacked_bars, trade_off
from mmfasternet.benchmark.reporting.report import Report, Table
from mmfasternet.benchmark.subjects.networks import NETWORKS

TABLE = Table('Two rows', {'name': '', 'ms': '.1f', 'paper': '.0f'},
              [{'name': 'a|<b>', 'ms': 1.2345, 'paper': 7}, {'name': 'c', 'ms': 20.06}])


def test_numbers_are_rounded_where_they_are_shown_only():
    assert '| a\\|<b> | 1.2 | 7 |' in TABLE.markdown()
    assert '| c | 20.1 | - |' in TABLE.markdown() and '| --- | ---: | ---: |' in TABLE.markdown()
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert rows == [{'name': 'a|<b>', 'ms': '1.2345', 'paper': '7'}, {'name': 'c', 'ms': '20.06', 'paper': ''}]


def test_everything_is_written(tmp_path):
    figure = stacked_bars({'a': {'backbone': 3., 'neck': 1.}}, 'ms', 'Bars')
    written = Report('Title', [TABLE], ['a & b'], {'Bars, wide': figure}).write(tmp_path / 'out')
    assert sorted(path.name for path in written) == ['bars-wide.png', 'report.html', 'report.md', 'two-rows.csv']
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == sorted(path.name for path in written)
    assert Image.open(tmp_path / 'out' / 'bars-wide.png').size[0] > 500
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert 'a|&lt;b&gt;' in page and 'a &amp; b' in page and '20.1' in page
    assert re.search('src="data:image/png;base64,[A-Za-z0-9+/=]{1000}', page) and 'http' not in page
    text = (tmp_path / 'out' / 'report.md').read_text()
    assert '# Title' in text and '![Bars, wide](bars-wide.png)' in text


def test_the_terminal_shows_all(capsys):
    brackets = Table('[its name]', {'[b]': ''}, [{'[b]': '[red]c'}, {'[b]': '[/red]'}])
    Report('Title', [TABLE, brackets], ['[a note]']).print()
    shown = capsys.readouterr().out
    assert all(part in shown for part in ('Two rows', '20.1', '-', '[a note]', '[its name]', '[b]', '[red]c', '[/red]'))


def test_points_without_a_value_are_dropped():
    points = [('A', 1., 2., 'a'), ('A', None, 2., 'b'), ('B', 1., None, 'c')]
    assert by_family(points) == {'A': [(1., 2., 'a')]}


@pytest.mark.parametrize('make', [
    lambda: trade_off({'FasterNet': [(2., 80., 'S'), (1., 70., 'T0')], 'B': [(1., 2., 'b')]}, 'x', 'y', 'title'),
    lambda: roofline({'Conv': [(90., 60., '96')], 'DWConv': [(1.1, 5., '96')]}, 80., 12., 'title'),
    lambda: histograms({'stage 1': [.1, .9], 'stage 2': [.5, .5]}, ['1', '2'], 'x', 'y', 'title'),
])
def test_plots_have_titles_and_axes(make):
    figure = make()
    axes, = figure.axes
    assert isinstance(figure, Figure) and axes.get_title(loc='left') == 'title'
    assert axes.get_xlabel() and axes.get_ylabel() and axes.get_legend()


def test_every_family_has_a_marker_and_no_other_is_red():
    families = {name: [(1., 2., name)] for name in dict.fromkeys(n.family for n in NETWORKS.values())}
    lines = trade_off(families, 'x', 'y', 'title').axes[0].lines
    assert len(lines) == len(families) == len({(line.get_color(), line.get_marker()) for line in lines})
    assert [line.get_label() for line in lines if line.get_color() == '#d1242f'] == ['FasterNet']


def test_stacked_bars_end_at_their_sum():
    axes, = stacked_bars({'a': {'backbone': 3., 'neck': 1.5}, 'b': {'neck': 2.}}, 'ms', 'title').axes
    assert [text.get_text().strip() for text in axes.texts] == ['4.5', '2.0']
