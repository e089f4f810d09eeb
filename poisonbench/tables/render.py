"""Tables as text: terminal, plain, Markdown, CSV, JSON, LaTeX and HTML.

In none of them is a number ever cropped: where a terminal is too narrow for a grid, columns that it
can do without are left out (of a verdict the word, effect and interval stay), and then figures that
stand for themselves are shown in several grids, other rows are stacked; where there is no terminal,
a grid takes the width it needs.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.results.statistics import Verdict
from poisonbench.tables.comparisons import Block, Table
from poisonbench.tables.layout import DASH

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

#: The words that have a colour.
_STYLES: dict[str, str] = {
    Verdict.EQUAL: "green",
    Verdict.EQUIVALENT: "green",
    Verdict.REPRODUCED: "green",
    Verdict.DIFFERS: "bold red",
    Verdict.REFUTED: "bold red",
    Verdict.TOO_SMALL: "bold red",
}

#: Wider than any grid, so that rich never folds or crops one.
_UNBOUNDED = 100_000

#: Where notes are folded outside of a terminal.
_NOTES_WIDTH = 100


def render(table: Table, kind: str) -> str:
    """A table as the text of a file or pipe.

    Args:
        table: what to print.
        kind: one of ``FORMATS``.

    Raises:
        UsageError: unknown format.
    """
    return FORMATS[check_format(kind)](table)


def check_format(kind: str) -> str:
    """The format, if it is one of ``FORMATS``, and else a UsageError."""
    if kind not in FORMATS:
        raise UsageError(
            f"expected a format among {', '.join(FORMATS)}, got {kind!r}"
            f"{did_you_mean(kind, FORMATS)}"
        )
    return kind


def print_rich(table: Table, console: Console) -> None:
    """Print on a terminal; a grid wider than it loses columns, is cut, or has a line a figure."""
    from rich.text import Text

    console.print(Text(table.title, style="bold"))
    for block in table.filled_blocks:
        console.print()
        console.print(Text(block.title, style="bold"), soft_wrap=True)
        shorter = [
            _without(block, block.dispensable[:number])
            for number in range(len(block.dispensable) + 1)
        ]
        if fitting := next((short for short in shorter if _fits(short, console)), None):
            console.print(_grid(fitting))
        elif parts := _parts(block, console):
            for number, part in enumerate(parts):
                if number:
                    console.print()
                console.print(_grid(part))
        else:
            for line in _stacked(_without(block, block.dispensable[:2])):
                console.print(Text(line), soft_wrap=True)
    console.print()
    for note in table.notes:
        console.print(Text(note, style="dim"))


def render_plain(table: Table) -> str:
    """Aligned columns of natural width without lines or colour."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, width=_UNBOUNDED, color_system=None, force_terminal=False)
    for block in table.filled_blocks:
        stream.write(f"\n{block.title}\n")
        console.print(_grid(block))
    body = "\n".join(line.rstrip() for line in stream.getvalue().splitlines())
    notes = [line for note in table.notes for line in wrap(note, _NOTES_WIDTH)]
    return "\n".join([table.title, body, "", *notes]) + "\n"


def render_markdown(table: Table) -> str:
    """GitHub's tables."""
    parts = [f"## {_plain(table.title)}"]
    for block in table.filled_blocks:
        strong = {number + 2 for number in block.strong}
        rule = ["---" if i < block.keys else "---:" for i in range(len(block.columns))]
        lines = [
            "| " + " | ".join(_bold(_plain(cell), number in strong) for cell in line) + " |"
            for number, line in enumerate((block.columns, rule, *block.rows))
        ]
        parts += [f"### {_plain(block.title)}", "\n".join(lines)]
    parts.append("\n".join(f"- {_plain(note)}" for note in table.notes))
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Text that Markdown takes for nothing else, in a line and in a cell."""
    # A bracket is text unless a link's address follows: intervals stay as they are.
    return re.sub(r"[\\`*_~|<&]|\](?=\()", r"\\\g<0>", text)


def _bold(cell: str, is_strong: bool) -> str:
    return f"**{cell}**" if is_strong else cell


def render_csv(table: Table) -> str:
    """One line a cell or claim: fractions, record ids with spaces, nothing for what is absent."""
    # A file of lines has no title to name the reading.
    about = {"table": table.key} | ({"reading": table.reading} if table.reading else {})
    rows = [about | _flat(cell.to_dict()) for cell in table.cells]
    rows += [about | _flat(finding.to_dict()) for finding in table.findings]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def render_json(table: Table) -> str:
    """One object on one line; accuracies are fractions."""
    return json.dumps(table.to_dict(), sort_keys=True, allow_nan=False) + "\n"


def render_latex(table: Table) -> str:
    r"""``table`` environments for a document that loads booktabs."""
    parts = [r"% \usepackage{booktabs}"]
    for block in table.filled_blocks:
        rule = "l" * block.keys + "r" * (len(block.columns) - block.keys)
        parts += [
            r"\begin{table}[htbp]",
            r"\centering" + _tex_size(block),
            rf"\caption{{{_tex(table.title)}. {_tex(block.title)}.}}",
            rf"\begin{{tabular}}{{{rule}}}",
            r"\toprule",
            _tex_row([_tex_head(name) for name in block.columns]),
            r"\midrule",
            *(
                _tex_row(
                    rf"\textbf{{{_tex(cell)}}}" if number in block.strong else _tex(cell)
                    for cell in row
                )
                for number, row in enumerate(block.rows)
            ),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    parts += [rf"\noindent {_tex(note)}\par" for note in table.notes]
    return "\n".join(parts) + "\n"


def render_html(table: Table) -> str:
    """One page that needs nothing else: no script, no network, light and dark."""
    body = [f"<h1>{html.escape(table.title)}</h1>"]
    for block in table.filled_blocks:
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in block.columns)
        body += [
            f"<h2>{html.escape(block.title)}</h2>",
            '<div class="wide"><table>',
            f"<thead><tr>{head}</tr></thead>",
            "<tbody>",
            *(
                _html_row(row, block.keys, is_strong=number in block.strong)
                for number, row in enumerate(block.rows)
            ),
            "</tbody></table></div>",
        ]
    notes = [f"<li>{html.escape(note)}</li>" for note in table.notes]
    body += ["<ul>", *notes, "</ul>"]
    return _PAGE.format(title=html.escape(table.title), style=_CSS, body="\n".join(body))


def _without(block: Block, names: Collection[str]) -> Block:
    """The block without columns of some names."""
    kept = [index for index, name in enumerate(block.columns) if name not in names]
    columns, *rows = (tuple(row[i] for i in kept) for row in (block.columns, *block.rows))
    return replace(block, columns=columns, rows=tuple(rows))


def _fits(block: Block, console: Console) -> bool:
    options = console.options.update(max_width=_UNBOUNDED)
    return console.measure(_grid(block), options=options).maximum <= console.width


def _parts(block: Block, console: Console) -> list[Block]:
    """The grid in grids of a few columns that each fit, each without rows that are of the others.

    Empty for rows of which each is about one figure or claim, whose columns belong together, and
    where no two columns fit.
    """
    if block.judged:
        return []
    parts, rest = [], list(block.columns[block.keys :])
    while rest:
        part = None
        for number in range(min(2, len(rest)), len(rest) + 1):
            longer = _part(block, rest[:number])
            if not _fits(longer, console):
                break
            part = longer
        if part is None:
            return []
        parts.append(part)
        rest = rest[len(part.columns) - block.keys :]
    return parts


def _part(block: Block, names: Sequence[str]) -> Block:
    """The columns of these names, without rows whose figures are all in other columns."""
    part = _without(block, set(block.columns[block.keys :]) - set(names))
    kept = [
        number
        for number, (row, whole) in enumerate(zip(part.rows, block.rows, strict=True))
        if _figures(row, block) or not _figures(whole, block)
    ]
    strong = frozenset(new for new, old in enumerate(kept) if old in block.strong)
    return replace(part, rows=tuple(part.rows[number] for number in kept), strong=strong)


def _figures(row: Sequence[str], block: Block) -> set[str]:
    return {*row[block.keys :]} - {DASH}


def _grid(block: Block) -> RichTable:
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=None, pad_edge=False, padding=(0, 1))
    for index, name in enumerate(block.columns):
        grid.add_column(Text(name), justify="left" if index < block.keys else "right")
    for number, row in enumerate(block.rows):
        style = "bold" if number in block.strong else None
        grid.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row), style=style)
    return grid


def _stacked(block: Block) -> list[str]:
    """A line a figure below a line that names the row; none where there is nothing in a column."""
    width = max(map(len, block.columns[block.keys :]))
    lines = []
    for number, row in enumerate(block.rows, block.summaries - len(block.rows)):
        named = list(zip(block.columns, row, strict=True))
        # A summary is of all rows above it.
        keys = (cell if number >= 0 else f"{name} {cell}" for name, cell in named[: block.keys])
        lines.append(", ".join(keys))
        has_figures = bool(_figures(row, block)) and not block.judged
        lines += [
            f"  {name:<{width}}  {cell}"
            for name, cell in named[block.keys :]
            if cell != DASH or not has_figures
        ]
    return lines


def _flat(cell: dict[str, Any]) -> dict[str, Any]:
    """One CSV row: nested figures become columns."""
    row: dict[str, Any] = {}
    for name, value in cell.items():
        if name in ("measured", "published"):
            figure = value if isinstance(value, dict) else {"mean": value}
            row[name] = figure["mean"]
            parts = ("std", "n", "low", "high") if name == "measured" else ("std", "n")
            row |= {f"{name}_{part}": figure.get(part) for part in parts}
        else:
            row[name] = " ".join(value) if isinstance(value, list) else value
    return row


#: Characters of a grid's columns that fit LaTeX's article in footnote size.
_TEX_CHARACTERS = 70

#: Where a column's heading is folded.
_TEX_HEAD = 16

_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": "$|$",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    **{character: "\\" + character for character in "&%$#_"},
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def _tex_size(block: Block) -> str:
    """Small type, and smaller with narrow gaps where the columns would leave the page."""
    columns = zip(*block.rows, strict=True)
    is_wide = sum(max(map(len, column)) for column in columns) > _TEX_CHARACTERS
    return r"\scriptsize\setlength{\tabcolsep}{3pt}" if is_wide else r"\footnotesize"


def _tex_head(name: str) -> str:
    lines = wrap(name, _TEX_HEAD)
    return r"\shortstack{" + r"\\".join(map(_tex, lines)) + "}" if lines[1:] else _tex(name)


def _tex_row(cells: Iterable[str]) -> str:
    row = " & ".join(cells)
    # The line break before would take these for its own.
    return ("{}" if row.startswith(("[", "*")) else "") + row + r" \\"


def _html_row(row: Sequence[str], keys: int, *, is_strong: bool = False) -> str:
    names = "".join(f'<th scope="row">{html.escape(cell)}</th>' for cell in row[:keys])
    figures = "".join(
        f'<td class="{cell.replace(" ", "-") if cell in _STYLES else "figure"}">'
        f"{html.escape(cell)}</td>"
        for cell in row[keys:]
    )
    start = '<tr class="strong">' if is_strong else "<tr>"
    return f"{start}{names}{figures}</tr>"


_CSS = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; text-align: right; white-space: nowrap; }
th[scope=row], thead th:first-child { text-align: left; font-weight: normal; }
thead th { border-bottom: 1px solid; }
.strong th, .strong td { font-weight: bold; }
.equal, .equivalent, .reproduced { color: light-dark(#116329, #56d364); }
.differs, .refuted, .too-small { color: light-dark(#b3141d, #ff8a80); font-weight: bold; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

FORMATS: dict[str, Callable[[Table], str]] = {
    "rich": render_plain,
    "markdown": render_markdown,
    "csv": render_csv,
    "json": render_json,
    "latex": render_latex,
    "html": render_html,
}
