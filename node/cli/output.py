"""Output: answers on stdout, progress on stderr, as a table for people or JSON for programs.

Texts of other people (offers, job output) are shown without the control characters that would
steer a terminal.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from market.units import format_bytes

if TYPE_CHECKING:
    from rich.progress import TaskID

    from node.client.jobfile import LocalBlob
    from node.client.submission import Progress

SCHEMA: Final = 1
SHORT_COLUMN: Final = 22  # letters: what is no longer is never broken
FORMATS: Final = ("table", "json", "yaml", "wide", "name")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# What a log may do to a terminal: new lines, tabs, carriage returns and colours. Nothing else.
_STEERING: Final = re.compile(rb"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]")


@dataclass
class _Chosen:
    """How this process answers; set once, before a command runs."""

    format: str = "table"


_chosen: Final = _Chosen()


def choose_format(name: str) -> None:
    """Answer as one of FORMATS from now on."""
    _chosen.format = name


def clean(text: object) -> str:
    """One line without control characters."""
    return _CONTROL.sub("\ufffd", str(text))


def say(text: str) -> None:
    """Progress, for people."""
    print(clean(text), file=sys.stderr, flush=True)


def write_json(value: dict[str, Any]) -> None:
    """One JSON object on one line, with the schema's number; as YAML where that was asked for."""
    said = {"schema": SCHEMA, **value}
    if _chosen.format == "yaml":
        import yaml  # a command that was not asked for it does not wait for it

        print(yaml.safe_dump(said, sort_keys=False, allow_unicode=True), end="", flush=True)
        return
    print(json.dumps(said, allow_nan=False), flush=True)


def write_error(code: str, message: str, hint: str, *, as_json: bool) -> None:
    """One line that says what is wrong and what to do; JSON goes to stdout, as all data."""
    if as_json:
        write_json({"error": {"code": code, "message": message, "hint": hint}})
        return
    say(f"souk: {message}" + (f" ({hint})" if hint else ""))


def write_log(data: bytes, *, to_stderr: bool = False) -> None:
    """A job's output: raw into a file or pipe, tamed on a terminal."""
    stream = sys.stderr if to_stderr else sys.stdout
    stream.buffer.write(_STEERING.sub(b"?", data) if stream.isatty() else data)
    stream.buffer.flush()


def write_lines(lines: Sequence[str]) -> None:
    """Plain lines."""
    for line in lines:
        print(clean(line))
    sys.stdout.flush()


def write_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    none: str,
    wide: int = 0,
    names: Sequence[str] = (),
) -> None:
    """Columns for people on a terminal; tab-separated with a heading otherwise.

    The last `wide` columns are shown only as `-o wide`; `names` is what `-o name` prints instead.
    """
    if _chosen.format == "name":
        write_lines(names or [str(row[0]) for row in rows])
        return
    if not rows:
        say(none)
        return
    if wide and _chosen.format != "wide":
        columns, rows = columns[:-wide], [row[:-wide] for row in rows]
    texts = [["-" if cell is None else clean(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        write_lines_of_cells([[name.upper() for name in columns], *texts])
        return
    _draw(columns, texts)


def _draw(columns: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    """On a terminal: long columns give way, short ones never, and none is left out."""
    from rich.console import Console  # a terminal is worth the wait; a pipe is not
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    widths = [max(map(len, cells)) for cells in zip(columns, *texts, strict=True)]
    least = [min(width, SHORT_COLUMN) for width in widths]
    for name, width, minimum in zip(columns, widths, least, strict=True):
        table.add_column(
            name.upper(), no_wrap=width <= SHORT_COLUMN, min_width=minimum, overflow="fold"
        )
    for row in texts:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(no_color="NO_COLOR" in os.environ)
    console.width = max(console.width, sum(least) + 2 * len(least))
    console.print(table)


def write_lines_of_cells(rows: Sequence[Sequence[str]]) -> None:
    """Tab-separated cells."""
    for row in rows:
        print("\t".join(row))
    sys.stdout.flush()


def write_facts(facts: dict[str, object]) -> None:
    """Names and values, one pair a line."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        print(f"{name:<{width}}  {'-' if value is None else clean(value)}")
    sys.stdout.flush()


@contextmanager
def sending() -> Iterator[Progress]:
    """Bytes on their way to the node: bars on a terminal, a line for each file otherwise."""
    if not sys.stderr.isatty():
        told: set[str] = set()

        def line(blob: LocalBlob, have: int) -> None:
            if blob.sha256 not in told:
                told.add(blob.sha256)
                say(f"sending {blob.file.name}, {format_bytes(blob.size_bytes - have)}")

        yield line
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        "sending {task.description}", DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(), console=Console(stderr=True), transient=True,
    )  # fmt: skip
    tasks: dict[str, TaskID] = {}

    def bar(blob: LocalBlob, have: int) -> None:
        if blob.sha256 not in tasks:
            name = clean(blob.file.name)
            tasks[blob.sha256] = bars.add_task(name, total=blob.size_bytes, completed=have)
        bars.update(tasks[blob.sha256], completed=have)

    with bars:
        yield bar
