"""The page of an evaluation report: one template, no script, nothing fetched from elsewhere."""

import json
from typing import Any

from jinja2 import Environment, StrictUndefined

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Navigation: {{ summary.level }}{% if summary.split %}, {{ summary.split }}{% endif %}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; color: #222831; max-width: 1340px; margin: 2rem auto; padding: 0 1rem; }
  table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums; }
  th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
  th:first-child, td:first-child { text-align: left; }
  tr.model td { font-weight: 600; }
  dt { font-weight: 600; float: left; width: 5rem; clear: left; }
  dd { margin: 0 0 .2rem 5rem; }
  figure { margin: 0 0 2rem; border: 1px solid #ddd; padding: .5rem; }
  figure img { max-width: 100%; display: block; }
  figcaption a { color: inherit; }
  .failed figcaption b { color: #c81e1e; }
  .success figcaption b { color: #16803d; }
  .scroll { overflow-x: auto; }
  .note { color: #8a5a00; }
  label { margin-right: 1rem; }
  #only-failed:checked ~ .gallery .success, #only-success:checked ~ .gallery .failed { display: none; }
  pre { background: #f5f5f3; padding: .8rem; overflow-x: auto; }
</style>
</head>
<body>
<h1>{{ summary.level }}{% if summary.split %}, {{ summary.split }}{% endif %}</h1>
<p>{{ summary.episodes }} episodes, success radius {{ "%g"|format(summary.success_radius_m) }} m.
Square brackets are 95 % intervals (Wilson's for SR, OSR and stop, normal for the means).</p>
{% macro grid(headings, rows) %}
<div class="scroll"><table>
<tr><th>policy</th>{% for heading in headings %}<th>{{ heading }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr{% if row.name == summary.model_policy %} class="model"{% endif %}><td>{{ row.name }}</td>
{%- for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endmacro %}
{{ grid(columns|map(attribute=1)|list, rows) }}
{% for row in rows if row.note %}<p class="note">{{ row.name }}: {{ row.note }}.</p>{% endfor %}
<h2>What the numbers mean</h2>
<dl>{% for column in columns %}<dt>{{ column[1] }}</dt><dd>{{ column[2] }}</dd>{% endfor %}</dl>
{% if by_distance.headings %}
<h2>Success by the length of the shortest path</h2>
{{ grid(by_distance.headings, by_distance.rows) }}
{% endif %}
{% if by_level.headings|length > 1 %}
<h2>Success by level</h2>
{{ grid(by_level.headings, by_level.rows) }}
{% endif %}
{% if gallery %}
{% set failures = gallery|rejectattr("succeeded")|list|length %}
<h2 id="episodes">Episodes of {{ summary.model_policy }}</h2>
{% if gallery|length < summary.episodes %}
<p class="note">{{ gallery|length }} of {{ summary.episodes }} episodes have a picture.
The counts below are of these.</p>
{% endif %}
<input type="radio" name="show" id="all" checked><label for="all">all ({{ gallery|length }})</label>
<input type="radio" name="show" id="only-failed"><label for="only-failed">failures ({{ failures }})</label>
<input type="radio" name="show" id="only-success">
<label for="only-success">successes ({{ gallery|length - failures }})</label>
<div class="gallery">
{% for entry in gallery %}
<figure id="episode-{{ entry.id }}" class="{{ 'success' if entry.succeeded else 'failed' }}">
<figcaption><a href="#episode-{{ entry.id|urlencode }}">{{ entry.id }}</a>: <b>{{ entry.verdict }}</b></figcaption>
<img src="{{ entry.url }}" loading="lazy" alt="{{ entry.instruction }}">
</figure>
{% endfor %}
</div>
{% endif %}
<h2>Settings and versions</h2>
<pre>{{ details }}</pre>
</body>
</html>
"""


def render_page(
    *,
    summary: dict[str, Any],
    columns: list[tuple[str, str, str]],
    rows: list[dict[str, Any]],
    by_distance: dict[str, Any],
    by_level: dict[str, Any],
    gallery: list[dict[str, Any]],
) -> str:
    """Fill the template; every value is escaped, because instructions come from data sets."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    details = json.dumps({"settings": summary["settings"], "versions": summary["versions"]}, indent=2, default=str)
    return environment.from_string(_TEMPLATE).render(
        summary=summary,
        columns=columns,
        rows=rows,
        by_distance=by_distance,
        by_level=by_level,
        gallery=gallery,
        details=details,
    )
