"""Books: what this wallet spent and earned, as the node rebuilds it from the chain's log."""

from __future__ import annotations

import csv
import sys
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from cyclopts import Parameter

from market.errors import SpecError
from market.units import parse_duration_s
from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_json, write_table

SPENT: Final = ("paid", "bonds_lost", "compensated", "spent")
EARNED: Final = ("paid", "bonds_won", "slashed", "earned")
FLAG = Parameter(negative="")


def spend(
    *,
    since: str = "",
    by_day: Annotated[bool, FLAG] = False,
    as_csv: Annotated[bool, Parameter(name="--csv", negative="")] = False,
    common: Common = DEFAULT,
) -> int:
    """Say what agreements cost this wallet, to the base unit, from the chain's own log.

    Parameters
    ----------
    since
        A day (2026-11-01, UTC) or a time ago (7d).
    by_day
        Add up by day instead of listing agreements.
    as_csv
        Comma-separated values.
    """
    return _show("/api/spend", SPENT, since, by_day, as_csv, common)


def earnings(
    *,
    since: str = "",
    by_day: Annotated[bool, FLAG] = False,
    as_csv: Annotated[bool, Parameter(name="--csv", negative="")] = False,
    common: Common = DEFAULT,
) -> int:
    """Say what agreements brought this wallet, to the base unit, from the chain's own log.

    Parameters
    ----------
    since
        A day (2026-11-01, UTC) or a time ago (7d).
    by_day
        Add up by day instead of listing agreements.
    as_csv
        Comma-separated values.
    """
    return _show("/api/earnings", EARNED, since, by_day, as_csv, common)


def _show(
    path: str, amounts: tuple[str, ...], since: str, by_day: bool, as_csv: bool, common: Common
) -> int:
    found = common.node().get(f"{path}?since={_since_s(since)}")
    if common.as_json:
        write_json({path.rpartition("/")[2]: found})
        return _verdict(found)
    if by_day:
        columns = ("day", *amounts)
        rows = [tuple(day[name] for name in columns) for day in found["days"]]
    else:
        columns = ("agreement", "job", "opened", "state", *amounts, "held", "other")
        rows = [_row(line, amounts, whole=as_csv) for line in found["agreements"]]
    if as_csv:
        out = csv.writer(sys.stdout)
        out.writerow((*columns, "token"))
        out.writerows([(*map(_cell, row), found["token"]) for row in rows])
        sys.stdout.flush()
        return _verdict(found)
    write_table(columns, rows, none="no agreement moved money in that time")
    total = found["total"]
    words = ", ".join(f"{name.replace('_', ' ')} {total[name]}" for name in amounts)
    say(f"total: {words} {found['token']}")
    return _verdict(found)


def _verdict(found: dict[str, Any]) -> int:
    if found["agrees"]:
        return 0
    say("these figures do not agree with the contract: ask again; if it stays so, report it")
    return 1


def _row(line: dict[str, Any], amounts: tuple[str, ...], *, whole: bool) -> tuple[Any, ...]:
    opened = datetime.fromtimestamp(line["opened"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    name = line["agreement"] if whole else line["agreement"][:12]
    other = line["other"] if whole else line["other"][:12]
    figures = (line[amount] for amount in amounts)
    return (name, line["job_name"], opened, line["state"], *figures, line["held"], other)


def _cell(value: object) -> object:
    """A spreadsheet takes a text that begins like this for a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "@", "\t", "\r"):
        return "'" + value
    return "" if value is None else value


def _since_s(text: str) -> int:
    if not text:
        return 0
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        pass
    try:
        return max(0, int(time.time()) - parse_duration_s(text))
    except SpecError:
        raise SpecError(f"--since {text}: neither a day nor a time ago",
                        hint="like 2026-11-01 or 7d") from None  # fmt: skip
