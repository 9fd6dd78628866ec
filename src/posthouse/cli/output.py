"""What commands print: JSON for machines, tables for people."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 240
"""Columns of a table that does not go to a terminal: wide enough that hardly a cell is wrapped."""
WRAPPED = 24
"""Least width of the last column, which may be wrapped."""


_STEERING = re.compile(
    r"(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # strings: title, clipboard
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # control sequences: colours, cursor
    r"|\x1b[ -/]*[0-~]?"  # other escapes
)
"""What terminals obey. Source: ECMA-48, 5.3 to 5.6."""

Row = Mapping[str, Any] | Any
"""A row of a table: what the client returns, or names and values."""


def print_json(value: object) -> None:
    """Prints `value` as one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=plain) + "\n")


def print_rows(rows: Sequence[Row], columns: Iterable[str], empty: str, less: Sequence[str] = ()) -> None:
    """Prints a table with these columns, or `empty` if there is no row. A terminal too narrow for all goes without
    those in `less`, the first first, as long as it must."""
    if rows:
        shown_rows, names, to = [plain(row) for row in rows], list(columns), console()
        for name in less:
            if width(shown_rows, names) > to.width:
                names.remove(name)
        to.print(table(shown_rows, names))
    else:
        sys.stdout.write(empty + "\n")


def width(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> int:
    """How wide a table of these columns is at most, in characters; the last column counts with its title alone."""
    cells = [max(len(name), *(len(shown(name, row.get(name))) for row in rows)) for name in columns[:-1]]
    return sum(cells) + 2 * len(columns) + max(len(columns[-1]), WRAPPED)


def print_record(row: Row) -> None:
    """Prints one row, a line for each field."""
    console().print(table([{"field": name, "value": shown(name, value)} for name, value in plain(row).items()]))


def plain(row: Row, *without: str) -> dict[str, Any]:
    """The row as names and values, without some."""
    values: Mapping[str, Any] = row if isinstance(row, Mapping) else asdict(row)
    return {name: value for name, value in values.items() if name not in without}


def table(rows: Sequence[Mapping[str, Any]], columns: Iterable[str] = (), title: str = "") -> "Table":
    """A table of these columns of the rows; of all, if none is named. Numbers stand to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, title=f"\n{title}" if title else None, title_justify="left", show_edge=False)
    names = list(columns) or list(rows[0])
    for name in names:
        number = all(isinstance(row.get(name), int | float | None) for row in rows) and not name.endswith("_at")
        made.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        # Text, because a str would be read as markup.
        made.add_row(*(Text(shown(name, row.get(name))) for name in names))
    return made


def console(stderr: bool = False) -> "Console":
    """Where tables go. No colours and no wrapping in a pipe."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else WIDTH)


@contextmanager
def waiting(text: str) -> Iterator[Callable[[str], None]]:
    """Shows on stderr what is waited for: on a terminal one line that changes, else a line for each change.

    Yields the call that shows a text; an empty one removes the line.
    """
    if sys.stderr.isatty():
        with console(stderr=True).status(text) as status:
            yield lambda now: status.update(printable(now)) if now else status.stop()
        return
    last = text

    def show(now: str) -> None:
        nonlocal last
        if now and now != last:
            last = now
            sys.stderr.write(one_line(now) + "\n")

    yield show


def shown(name: str, value: object) -> str:
    """A value as people read it; `name` tells its unit."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case int() | float() if name.endswith("_at"):
            return datetime.fromtimestamp(value).astimezone().strftime("%Y-%m-%d %H:%M:%S") if value else "-"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case dict() | list():
            return printable(json.dumps(value, ensure_ascii=False))
    return printable(str(value))


def printable(text: str) -> str:
    """The text without what would steer a terminal: workers and providers write into what we show."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def log_text(text: str) -> str:
    """What a worker printed, as a terminal would show it in the end, without what would steer the terminal.

    Of a line that was written over, as progress bars do, it is what it says last.
    """
    plain_lines = (_STEERING.sub("", line).rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return "\n".join(printable(line) for line in plain_lines)


def one_line(text: str) -> str:
    """The text in one line: `wrong:` with a list below becomes `wrong: this; that`."""
    lines = [line.strip() for line in printable(text).splitlines() if line.strip()]
    return "; ".join(lines).replace(":; ", ": ")
