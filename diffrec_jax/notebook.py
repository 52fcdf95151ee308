"""Small tables for notebooks: HTML in which every text is escaped, since ids and titles are somebody's data."""

import html
from collections.abc import Iterable, Sequence


def html_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", below: Iterable[str] = ()
) -> str:
    """A ``<table>`` with a title above and sentences below.

    Args:
      header: names of the columns.
      rows: cells; numbers are set to the right, floats with four digits after the point.
      title: of the table.
      below: sentences.
    """
    parts = [f"<p><b>{html.escape(title)}</b></p>"] if title else []
    parts.append("<table><thead><tr>")
    parts += [f"<th>{html.escape(name)}</th>" for name in header]
    parts.append("</tr></thead><tbody>")
    for row in rows:
        parts.append("<tr>" + "".join(_cell(value) for value in row) + "</tr>")
    parts.append("</tbody></table>")
    parts += [f"<p>{html.escape(sentence)}</p>" for sentence in below]
    return f"<div>{''.join(parts)}</div>"


def _cell(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    side = "right" if isinstance(value, int | float) else "left"
    return f'<td style="text-align:{side}">{html.escape(text)}</td>'
