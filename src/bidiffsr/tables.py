"""Tables of strings, for a terminal and for a document."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from rich.table import Table

Mark: TypeAlias = Literal["best", "second"]

_MARKDOWN = {"best": "**{}**", "second": "<ins>{}</ins>", None: "{}"}
_LATEX = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", None: "{}"}

# What LaTeX takes for commands, or prints as something else in its first font encoding.
_LATEX_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "±": r"$\pm$",
        "×": r"$\times$",
        # At the beginning of a row they would belong to the line break before it.
        "[": "{[}",
        "*": "{*}",
    }
)


@dataclass(frozen=True)
class TextTable:
    """Rows under headings; columns of text are aligned left, numbers right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """A cell for each column."""
    text: Collection[str]
    """Those of the columns that hold text."""
    title: str = ""
    spans: Sequence[tuple[str, int]] = ()
    """Headings above those of the columns, from the left: each with how many columns it is over,
    and empty where there is none."""
    marks: Mapping[tuple[int, int], Mark] = field(default_factory=dict)
    """What is set off, by row and column from 0."""

    def rich(self) -> Table:
        """For the terminal: print it with rich."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.title or None, title_justify="left")
        for column, heading in zip(self.columns, self._headings(), strict=True):
            table.add_column(Text(heading), justify="left" if column in self.text else "right")
        for row in self.rows:
            table.add_row(*map(Text, row))  # as Text: cells may hold what rich takes for markup
        return table

    def markdown(self) -> str:
        """For a document: a GitHub-flavoured table, ending in a newline; without the title."""
        rule = ["---" if column in self.text else "---:" for column in self.columns]
        headings = [_markdown_text(heading) for heading in self._headings()]
        rows = [
            [
                _MARKDOWN[self.marks.get((i, j))].format(_markdown_text(cell))
                for j, cell in enumerate(row)
            ]
            for i, row in enumerate(self.rows)
        ]
        return "".join(f"| {' | '.join(row)} |\n" for row in [headings, rule, *rows])

    def latex(self) -> str:
        """For a paper: a tabular with booktabs' rules, ending in a newline; without the title."""
        layout = "".join("l" if column in self.text else "r" for column in self.columns)
        lines = [rf"\begin{{tabular}}{{{layout}}}", r"\toprule", *self._latex_spans()]
        lines += [_latex_row(map(_latex_text, self.columns)), r"\midrule"]
        for i, row in enumerate(self.rows):
            cells = (
                _LATEX[self.marks.get((i, j))].format(_latex_text(c)) for j, c in enumerate(row)
            )
            lines.append(_latex_row(cells))
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def _headings(self) -> list[str]:
        """Of the columns, each with what spans it."""
        above = [heading for heading, count in self.spans for _ in range(count)]
        above += [""] * (len(self.columns) - len(above))
        return [
            f"{span} {column}".strip() for span, column in zip(above, self.columns, strict=True)
        ]

    def _latex_spans(self) -> Iterator[str]:
        if not self.spans:
            return
        cells, rules, first = [], [], 1
        for heading, count in self.spans:
            if heading:
                cells.append(rf"\multicolumn{{{count}}}{{c}}{{{_latex_text(heading)}}}")
                rules.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
            else:
                cells += [""] * count
            first += count
        yield _latex_row(cells)
        yield " ".join(rules)


def _markdown_text(text: str) -> str:
    return " ".join(text.splitlines()).replace("|", "\\|")


def _latex_text(text: str) -> str:
    return " ".join(text.splitlines()).translate(_LATEX_ESCAPES)


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"
