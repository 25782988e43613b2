"""`python -m tests.bench AREA [--json] [--data DIR]`: measure, compare, print; exit 1 on a miss.

An area is a module of this folder with `rows(data)`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
from dataclasses import asdict
from pathlib import Path

import trio
from rich.console import Console
from rich.table import Table

from tests.bench.row import Row

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def _measure(area: str, data: Path) -> list[Row]:
    rows = importlib.import_module(f"tests.bench.{area}").rows
    measured = trio.run(rows, data) if inspect.iscoroutinefunction(rows) else rows(data)
    return list(measured)


def main() -> int:
    """Run one area; 0 where every goal holds."""
    parser = argparse.ArgumentParser(prog="tests.bench")
    parser.add_argument("area")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    rows = _measure(given.area, given.data)
    if given.json:
        print(json.dumps([asdict(one) for one in rows], indent=2))
    else:
        table = Table("figure", "ours", "unit", "reference", "its figure", "ratio", "goal", "holds")
        for one in rows:
            table.add_row(
                one.name,
                f"{one.ours:,.2f}",
                one.unit,
                one.reference_name,
                f"{one.reference:,.2f}" if one.reference else "-",
                f"{one.ratio:.3f}" if one.ratio else "-",
                one.goal,
                "yes" if one.holds else "NO",
            )
        Console(width=None if Console().is_terminal else 180).print(table)
    return 0 if rows and all(one.holds for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
