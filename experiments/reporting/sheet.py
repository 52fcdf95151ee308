"""A small table of text, and the ways to write it: terminal, Markdown, LaTeX, HTML."""

import dataclasses
import html

from rich.table import Table
from rich.text import Text

_TEX = {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{", "}": r"\}", "\\": r"\textbackslash{}",
        "^": r"\^{}", "~": r"\~{}", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "ε": r"$\varepsilon$"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A title, named columns of which the first ``n_text`` hold words, rows of cells, and a note."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[tuple[int, int]] = frozenset()  # (row, column) of the best values
    note: str = ""
    n_text: int = 1

    def drawn(self) -> Table:
        """For a terminal."""
        table = Table(title=Text(self.title, "bold"), title_justify="left", caption=Text(self.note) or None)
        table.caption_justify = "left"
        for n, column in enumerate(self.columns):
            table.add_column(Text(column), justify="left" if n < self.n_text else "right")
        for r, row in enumerate(self.rows):
            table.add_row(*(Text(cell, "bold" if (r, c) in self.bold else "") for c, cell in enumerate(row)))
        return table

    def markdown(self) -> str:
        """For a ``.md`` file."""
        lines = [f"**{self.title}**", ""] if self.title else []
        lines.append("| " + " | ".join(_pipe(column) for column in self.columns) + " |")
        lines.append("|" + "---|" * self.n_text + "---:|" * (len(self.columns) - self.n_text))
        for r, row in enumerate(self.rows):
            cells = (f"**{_pipe(cell)}**" if (r, c) in self.bold else _pipe(cell) for c, cell in enumerate(row))
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines + (["", self.note] if self.note else [])) + "\n"

    def latex(self) -> str:
        """A ``table`` for LaTeX with booktabs."""
        alignment = "l" * self.n_text + "r" * (len(self.columns) - self.n_text)
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{_tex(self.title)}. {_tex(self.note)}}}"]
        lines += [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule"]
        lines += [" & ".join(map(_tex, self.columns)) + r" \\", r"\midrule"]
        for r, row in enumerate(self.rows):
            cells = (rf"\textbf{{{_tex(cell)}}}" if (r, c) in self.bold else _tex(cell) for c, cell in enumerate(row))
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"

    def html(self) -> str:
        """A ``<table>``."""

        def line(cells: tuple[str, ...], tag: str, r: int | None = None) -> str:
            parts = []
            for c, cell in enumerate(cells):
                text = f"<b>{html.escape(cell)}</b>" if (r, c) in self.bold else html.escape(cell)
                parts.append(f"<{tag}{'' if c < self.n_text else ' class=n'}>{text}</{tag}>")
            return "<tr>" + "".join(parts) + "</tr>"

        head = f"<thead>{line(self.columns, 'th')}</thead>"
        body = "".join(line(row, "td", r) for r, row in enumerate(self.rows))
        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        note = f"<p class=note>{html.escape(self.note)}</p>" if self.note else ""
        return f"<table>{caption}{head}<tbody>{body}</tbody></table>{note}\n"


def _pipe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)
