"""Sections as Markdown and LaTeX. The HTML page is made by `report.build_comparison`."""

from __future__ import annotations

from collections.abc import Sequence

from distilect.experiments.tables import Section, TableData

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "–": "--",
    "·": r"$\cdot$",
    "<": r"$<$",
    ">": r"$>$",
    "α": r"$\alpha$",
}


def markdown(title: str, intro: Sequence[str], sections: Sequence[Section]) -> str:
    """A page of GitHub's Markdown."""
    parts = [f"# {title}", "", "\n\n".join(intro)]
    for section in sections:
        parts += ["", f"## {section.title}", "", *(f"- {name}: {value}" for name, value in section.facts), ""]
        parts += [*(f"- {line}" for line in section.findings)]
        for table in section.tables:
            parts += ["", f"### {table.title}", "", _markdown_table(table), "", table.note]
    return "\n".join(parts).rstrip() + "\n"


def latex(sections: Sequence[Section]) -> str:
    """Tables for a paper (booktabs), one `table` environment each."""
    found = ["% Made by distilect compare; needs \\usepackage{booktabs}"]
    for section in sections:
        found += [_latex_table(table, section.title) for table in section.tables]
    return "\n\n".join(found) + "\n"


def _markdown_table(table: TableData) -> str:
    lines = ["| " + " | ".join(map(_cell, table.header)) + " |", "|---|" + "---:|" * (len(table.header) - 1)]
    for number, row in enumerate(table.rows):
        cells = [_cell(text) for text in row]
        cells[0] = f"`{_code(row[0])}`"
        shown = [f"**{c}**" if (number, i) in table.best else c for i, c in enumerate(cells)]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that cannot end a cell of the table or become markup: a star means emphasis in Markdown."""
    for sign in ("\\", "|", "*", "<"):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _code(text: str) -> str:
    """Text of a code span, where only the backtick and the table's bar mean anything."""
    return " ".join(text.replace("`", "'").replace("|", "\\|").split())


def _latex_table(table: TableData, section: str) -> str:
    columns = "l" + "r" * (len(table.header) - 1)
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{_tex(f'{table.title} ({section})')}. {_tex(table.note)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(_tex, table.header)) + r" \\",
        r"\midrule",
    ]
    for number, row in enumerate(table.rows):
        cells = [_tex(text) for text in row]
        cells[0] = rf"\texttt{{{cells[0]}}}"
        shown = [rf"\textbf{{{c}}}" if (number, i) in table.best else c for i, c in enumerate(cells)]
        lines.append(" & ".join(shown) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _tex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))
