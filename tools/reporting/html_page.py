"""The report as one HTML file: style, tables and pictures inside, no script, nothing loaded from anywhere."""

import base64
from collections.abc import Sequence
from html import escape
from string import Template
from typing import NamedTuple

from tools.reporting.figure_table import Column, cell, compared, epochs, notes
from tools.reporting.run_figures import Run, twin

# The policy forbids what the page does not have: scripts, and anything from another file or host.
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { --text: #1c1e21; --back: #fff; --soft: #5c6370; --line: #d8dbe0; --stripe: #f3f5f8 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e6ea; --back: #16181c; --soft: #9aa1ad; --line: #363a42; --stripe: #1f2228 }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.6rem; line-height: 1.2 }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .4rem .7rem; text-align: right; vertical-align: top; white-space: nowrap }
thead th { border-bottom: 2px solid var(--line) }
tbody { border-top: 1px solid var(--line) }
th:first-child { position: sticky; left: 0; min-width: 8.5rem; background: var(--back); text-align: left;
  white-space: normal }
tr.float > * { background: var(--stripe) }
small { display: block; color: var(--soft); font-weight: normal }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 1rem;
  margin: 1rem 0 }
img { width: 100%; max-width: 38rem; background: #fff; border-radius: .4rem }
.notes, dd { color: var(--soft) }
dd { margin: 0 0 .5rem }
code { font-size: .85rem }
</style>
</head>
<body>
<h1>$title</h1>
$sections
<h2>What the columns say</h2>
<p>Small figures compare a binary run with the float run above it; those of time and memory only where both ran on the
same machine.</p>
<dl>
$legend
</dl>
</body>
</html>
""")


class Section(NamedTuple):
    """Runs of one network on one data set.

    Attributes:
        title: of the section.
        families: runs that are compared with each other, as ``run_figures.families`` gives them.
        pictures: of their curves: what is in it, and the PNG.
    """

    title: str
    families: Sequence[Sequence[Run]]
    pictures: Sequence[tuple[str, bytes]]

    @property
    def runs(self) -> list[Run]:
        return [run for family in self.families for run in family]


def page(title: str, sections: Sequence[Section], columns: dict[str, Column]) -> str:
    """The whole file."""
    legend = "\n".join(f"<dt>{escape(c.title)}</dt><dd>{escape(c.meaning)}</dd>" for c in columns.values())
    body = "\n".join(section_html(section, columns) for section in sections)
    return PAGE.substitute(title=escape(title), sections=body, legend=legend)


def section_html(section: Section, columns: dict[str, Column]) -> str:
    """Table, what is missing in it, curves, and how the runs were started."""
    title = escape(section.title)
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("run", *(c.title for c in columns.values())))
    bodies = [
        "<tbody>" + "\n".join(row_html(run, twin(run, family), columns) for run in family) + "</tbody>"
        for family in section.families
    ]
    table = "\n".join([f"<table>\n<thead><tr>{header}</tr></thead>", *bodies, "</table>"])
    return "\n".join(
        [
            f'<section>\n<h2>{title}</h2>\n<div class="scroll" role="region" aria-label="{title}" tabindex="0">',
            table,
            "</div>",
            *(f'<p class="notes">{escape(note)}</p>' for note in notes(section.runs)),
            '<div class="curves">',
            *(picture_html(text, png) for text, png in section.pictures),
            "</div>",
            "<details><summary>Commands, machines, dates</summary>\n<dl>",
            *(start_html(run) for run in section.runs),
            "</dl>\n</details>\n</section>",
        ]
    )


def row_html(run: Run, against: Run | None, columns: dict[str, Column]) -> str:
    """A row; figures beside the float run's are small."""
    cells = [f"<td>{escape(cell(key, run))}{small(compared(key, run, against))}</td>" for key in columns]
    facts = small(f"{run.scheme}, {epochs(run)} epoch{'s' if run.wanted > 1 else ''}")
    name = escape(run.name).replace("_", "_<wbr>")  # where a narrow screen may break it
    kind = ' class="float"' if run.is_float else ""
    return f'<tr{kind}><th scope="row">{name}{facts}</th>{"".join(cells)}</tr>'


def small(text: str) -> str:
    return f"<small>{escape(text)}</small>" if text else ""


def picture_html(text: str, png: bytes) -> str:
    """The picture inside the page, with its text for those who do not see it."""
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def start_html(run: Run) -> str:
    """How and where a run was made."""
    facts = f"{'; then '.join(run.machines)}; {run.date}"
    return f"<dt>{escape(run.name)}</dt><dd><code>{escape(run.command)}</code><br>{escape(facts)}</dd>"
