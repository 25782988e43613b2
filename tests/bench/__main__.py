"""Run the benches: `python -m tests.bench [--json] [name ..]`; exit 1 if a goal does not hold.

A bench is a module of this package with `rows()`, a function or an async one, that gives Rows.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import logging
import pkgutil
import sys

import structlog
import trio
from rich.console import Console
from rich.table import Table

import tests.bench
from tests.bench.row import Row


def main() -> int:
    """Measure, show, and say by the exit code whether every goal holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", help="benches to run; all without")
    parser.add_argument("--json", action="store_true", help="one JSON list on stdout")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    rows = [row for name in arguments.names or _all() for row in _measure(name)]
    if arguments.json:
        print(json.dumps([row.as_json() for row in rows], indent=2))
    else:
        _show(rows)
    return 0 if all(row.holds for row in rows) else 1


def _all() -> list[str]:
    found = []
    for module in pkgutil.iter_modules(tests.bench.__path__):
        if module.name not in ("__main__", "row"):
            loaded = importlib.import_module(f"tests.bench.{module.name}")
            found += [module.name] if hasattr(loaded, "rows") else []
    return sorted(found)


def _measure(name: str) -> list[Row]:
    rows = importlib.import_module(f"tests.bench.{name}").rows
    measured: list[Row] = trio.run(rows) if inspect.iscoroutinefunction(rows) else rows()
    return measured


def _show(rows: list[Row]) -> None:
    table = Table("what", "ours", "reference", "", "unit", "ratio", "goal", "")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.ours:.4g}",
            f"{row.reference:.4g}",
            row.reference_name,
            row.unit,
            f"{row.ratio:.2f}x",
            f"{row.goal:.2f}x",
            "holds" if row.holds else "FAILS",
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
