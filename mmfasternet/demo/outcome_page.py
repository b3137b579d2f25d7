"""What the demo reached, on one screen and on one page."""

from pathlib import Path
from typing import List, Tuple

import jinja2
from rich.console import Console
from rich.table import Table

from mmfasternet.demo.whole_way import Outcome
from mmfasternet.files import write_atomically

#: The page, in the folder of the outcome.
PAGE = 'index.html'
_TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>mmfasternet: from digits to shapes, seed {{ outcome.seed }}</title>
<style>
  body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
  table { border-collapse: collapse; margin: 1rem 0 2rem; font-variant-numeric: tabular-nums; }
  td { padding: .25rem 1.5rem .25rem 0; border-bottom: 1px solid #d5dae0; }
  img { max-width: 100%; }
  .pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(32rem, 1fr)); gap: 1rem; }
</style>
<h1>From digits to shapes, seed {{ outcome.seed }}, on held-out images</h1>
<table>
{% for name, value in numbers %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}</table>
<h2>Held-out images: truth on the left, predictions on the right</h2>
<div class="pictures">
{% for path in outcome.pictures %}<a href="{{ path }}"><img alt="{{ path }}" src="{{ path }}"></a>
{% endfor %}</div>
<h2>Training</h2>
{% for path in outcome.curves %}<p>{{ path }}</p><img alt="{{ path }}" src="{{ path }}">
{% endfor %}
<h2>Time</h2>
<table>
{% for name, value in outcome.seconds.items() %}<tr><td>{{ name }}</td><td>{{ '%.0f'|format(value) }} s</td></tr>
{% endfor %}</table>
</html>
"""


def numbers_of(outcome: Outcome) -> List[Tuple[str, str]]:
    """What was reached, in words and as numbers."""
    total = sum(outcome.seconds.values())
    return [('digits: top-1 accuracy', f'{outcome.top1:.1f} %'),
            *((f'shapes: box / mask AP, {form}', f"{ap['box']:.3f} / {ap['mask']:.3f}")
              for form, ap in outcome.ap.items()),
            *((f'CPU latency, image to masks, {form}', f'{ms:.1f} ms')
              for form, ms in outcome.latency.items()),
            ('time of all steps', f'{total / 60:.1f} min')]


def write_outcome_page(outcome: Outcome) -> Path:
    """Write the page next to what it shows; returns its path."""
    page = jinja2.Template(_TEMPLATE, autoescape=True).render(outcome=outcome, numbers=numbers_of(outcome))
    return write_atomically(Path(outcome.folder) / PAGE, page.encode())


def print_outcome(outcome: Outcome) -> None:
    """Print the numbers, and where everything is."""
    table = Table(title=f'From digits to shapes, seed {outcome.seed}, on held-out images', title_justify='left',
                  show_header=False)
    for name, value in numbers_of(outcome):
        table.add_row(name, value)
    table.add_section()
    for name, path in (('results page', PAGE), ('truth and predictions', 'pictures/vis'),
                       ('curves of the trainings', ', '.join(outcome.curves)), ('weights', outcome.weights)):
        table.add_row(name, path)
    console = Console()
    console.print(table)
    console.print(f'Everything is in {outcome.folder}; open {Path(outcome.folder) / PAGE} in a browser', markup=False,
                  highlight=False, soft_wrap=True)
