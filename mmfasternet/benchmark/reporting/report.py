"""Tables and plots of measurements: on the terminal, as CSV, Markdown and PNG, and as one HTML page."""

import base64
import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Sequence, Union

from mmfasternet.files import write_atomically

if TYPE_CHECKING:
    import rich.table
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
  body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
  table { border-collapse: collapse; margin: 1rem 0 2rem; font-variant-numeric: tabular-nums; }
  caption { text-align: left; font-weight: 600; padding: .3rem 0; }
  th, td { padding: .25rem .7rem; border-bottom: 1px solid #d5dae0; text-align: right; }
  th { border-bottom: 2px solid #57606a; vertical-align: bottom; }
  td.text, th.text { text-align: left; }
  img { max-width: 100%; }
  p { color: #57606a; }
</style>
{% for report in reports %}<h1>{{ report.title }}</h1>
{% for line in report.notes %}<p>{{ line }}</p>
{% endfor %}
{% for table in report.tables %}<table>
<caption>{{ table.name }}</caption>
<tr>{% for heading in table.columns %}<th{% if table.is_text(heading) %} class="text"{% endif %}>{{ heading }}</th>
{%- endfor %}</tr>
{% for row in table.cells() %}<tr>{% for heading, cell in row.items() %}<td
{%- if table.is_text(heading) %} class="text"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}
{% for name, picture in report.pictures().items() %}<img alt="{{ name }}" src="data:image/png;base64,{{ picture }}">
{% endfor %}
{% endfor %}
</html>
"""


@dataclass(frozen=True)
class Table:
    """A table that keeps all digits of its numbers until it is shown.

    Attributes:
        name: Its name, also that of its file.
        columns: Format of each column by its heading, such as ``'.1f'``;
            ``''`` for text.
        rows: Value of each column by its heading; None, NaN and missing values
            are shown as a dash.
    """
    name: str
    columns: Mapping[str, str]
    rows: Sequence[Row]

    def is_text(self, heading: str) -> bool:
        return not self.columns[heading]

    def cells(self) -> List[Dict[str, str]]:
        """The formatted rows."""
        return [{heading: _shown(row.get(heading), spec) for heading, spec in self.columns.items()}
                for row in self.rows]

    def markdown(self) -> str:
        """The table in Markdown, with a heading."""
        lines = [self.columns, ['---' if self.is_text(heading) else '---:' for heading in self.columns],
                 *([cell.replace('|', '\\|') for cell in row.values()] for row in self.cells())]
        return f'## {self.name}\n\n' + ''.join(f"| {' | '.join(line)} |\n" for line in lines)

    def csv(self) -> str:
        """The table as CSV, with all digits."""
        text = io.StringIO(newline='')
        writer = csv.DictWriter(text, self.columns, restval='', extrasaction='ignore', lineterminator='\n')
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def for_terminal(self) -> 'rich.table.Table':
        """The table for a terminal."""
        import rich.table
        from rich.markup import escape  # brackets, such as in file names, are not markup
        table = rich.table.Table(title=escape(self.name), title_justify='left')
        for heading in self.columns:
            text = self.is_text(heading)
            table.add_column(escape(heading), justify='left' if text else 'right', no_wrap=text)
        for row in self.cells():
            table.add_row(*map(escape, row.values()))
        return table


@dataclass(frozen=True)
class Report:
    """Report of a benchmark.

    Attributes:
        title: Its title.
        tables: Its tables.
        notes: Conditions and remarks, a line each.
        plots: Its plots, by the name of their file.
    """
    title: str
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    plots: Mapping[str, 'Figure'] = field(default_factory=dict)

    def print(self) -> None:
        """Print tables and notes."""
        from rich.console import Console
        console = Console(width=None if Console().is_terminal else 200)
        for table in self.tables:
            console.print(table.for_terminal())
        for line in self.notes:
            console.print(line, markup=False, highlight=False)

    def write(self, folder: Union[str, Path]) -> List[Path]:
        """Write ``report.md``, ``report.html``, a CSV file per table and a PNG file per plot.

        Returns:
            The files.
        """
        contents = {'report.md': self._markdown().encode(), 'report.html': _page(self.title, [self])}
        contents.update({f'{_file_name(table.name)}.csv': table.csv().encode() for table in self.tables})
        contents.update({f'{_file_name(name)}.png': _png(figure) for name, figure in self.plots.items()})
        Path(folder).mkdir(parents=True, exist_ok=True)
        return [write_atomically(Path(folder) / name, content) for name, content in contents.items()]

    def _markdown(self) -> str:
        parts = [f'# {self.title}\n', *(f'{line}\n' for line in self.notes), *(t.markdown() for t in self.tables),
                 *(f'![{name}]({_file_name(name)}.png)\n' for name in self.plots)]
        return '\n'.join(parts)

    def pictures(self) -> Dict[str, str]:
        """The plots as PNG in base64, by their names."""
        return {name: base64.b64encode(_png(figure)).decode() for name, figure in self.plots.items()}


def write_page(title: str, reports: Sequence[Report], path: Path) -> Path:
    """Write several reports as one HTML page."""
    return write_atomically(path, _page(title, reports))


def _page(title: str, reports: Sequence[Report]) -> bytes:
    import jinja2
    return jinja2.Template(_PAGE, autoescape=True).render(title=title, reports=reports).encode()


def _shown(value: Any, spec: str) -> str:
    return '-' if value is None or value != value else f'{value:{spec}}'  # NaN differs from itself


def _file_name(name: str) -> str:
    return re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')


def _png(figure: 'Figure') -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format='png', dpi=120, bbox_inches='tight')
    return picture.getvalue()
