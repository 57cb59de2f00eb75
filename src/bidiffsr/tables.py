"""Tables of strings, for a terminal and for a document."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class TextTable:
    """Rows under headings; columns of text are aligned left, numbers right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """A cell for each column."""
    text: Collection[str]
    """Those of the columns that hold text."""
    title: str = ""

    def rich(self) -> Table:
        """For the terminal: print it with rich."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.title or None, title_justify="left")
        for column in self.columns:
            table.add_column(column, justify="left" if column in self.text else "right")
        for row in self.rows:
            table.add_row(*map(Text, row))  # as Text: cells may hold what rich takes for markup
        return table

    def markdown(self) -> str:
        """For a document: a GitHub-flavoured table, ending in a newline; without the title."""
        rule = ["---" if column in self.text else "---:" for column in self.columns]
        rows = [[cell.replace("|", "\\|") for cell in row] for row in self.rows]
        return "".join(f"| {' | '.join(row)} |\n" for row in [self.columns, rule, *rows])
