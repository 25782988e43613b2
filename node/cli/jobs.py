"""Jobs: the commands about jobs that were submitted."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any, Final

from cyclopts import Parameter

from market.errors import SpecError
from market.units import format_duration, parse_duration_s
from node.cli.follow import TIMED_OUT, exit_code, follow, job_path, summary
from node.cli.follow import wait as wait_for
from node.cli.options import DEFAULT, Common
from node.cli.output import (
    say,
    write_facts,
    write_json,
    write_lines,
    write_log,
    write_table,
)

WATCH_S: Final = 1.0
_CLEAR: Final = "\x1b[H\x1b[2J"


def ps(
    *,
    all_: Annotated[bool, Parameter(name=["--all", "-a"], negative="")] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False,
    watch: Annotated[bool, Parameter(name=["--watch", "-w"], negative="")] = False,
    common: Common = DEFAULT,
) -> int:
    """List jobs, newest first.

    Parameters
    ----------
    all_
        Those that are over, too.
    quiet
        Ids only.
    watch
        Again whenever it changes, until Ctrl-C.
    """
    node = common.node()
    before: Any = None
    while True:
        jobs = [job for job in node.get("/api/jobs") if all_ or not job["over"]]
        if jobs != before:
            if watch and sys.stdout.isatty():
                print(_CLEAR, end="")
            _list(jobs, quiet=quiet, as_json=common.as_json)
        if not watch:
            return 0
        before = jobs
        time.sleep(WATCH_S)


def show(job: str, *, common: Common = DEFAULT) -> int:
    """Show a job: its history, agreements, money and results.

    Parameters
    ----------
    job
        Its id, the beginning of its id, or its name.
    """
    found = common.node().get(job_path(job))
    if common.as_json:
        write_json({"job": found})
        return 0
    names = ("id", "name", "state", "reason", "exit_code", "provider", "attempts", "metered_s")
    money = ("promised", "paid", "refunded", "compensated", "settled")
    write_facts({name: found.get(name) for name in (*names, *money)})
    _section("what the market said", found.get("explanation", []))
    _section("history", [_change(line) for line in found["history"]])
    _section("agreements", [_agreement(line) for line in found["agreements"]])
    _section(
        "results",
        [f"{r['path']}  {r['size_bytes']} bytes  sha256 {r['sha256']}" for r in found["results"]],
    )
    return 0


def logs(
    job: str,
    *,
    follow_: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    rank: int = 0,
    common: Common = DEFAULT,
) -> int:
    """Print a job's output.

    Parameters
    ----------
    job
        Its id, the beginning of its id, or its name.
    follow_
        Go on until the job is over; then exit as `wait` does. Rank 0 only.
    rank
        Which node of a gang, from 0.
    """
    node = common.node()
    if follow_ and rank:
        raise SpecError("only rank 0 can be followed", hint="leave out -f, and ask again later")
    if follow_:
        last = follow(node, job, log=True, log_to_stderr=common.as_json)
        if common.as_json:
            write_json({"job": last})
        return exit_code(last)
    parts = []
    offset = 0
    while True:
        data, offset, _ = node.log(job, offset, rank)
        if not data:
            break
        if common.as_json:
            parts.append(data)
        else:
            write_log(data)
    if common.as_json:
        write_json({"log": b"".join(parts).decode(errors="replace"), "next_offset": offset})
    return 0


def wait(*jobs: str, timeout: str | None = None, common: Common = DEFAULT) -> int:
    """Wait until jobs are over: 0 succeeded, 100 one failed, 103 cancelled, 124 not in time.

    Parameters
    ----------
    jobs
        Ids, their beginnings, or names.
    timeout
        Like 90s or 2h, for all of them.
    """
    node = common.node()
    ends_at = None if timeout is None else time.monotonic() + parse_duration_s(timeout)
    over: list[dict[str, Any]] = []
    for name in _named(jobs, "wait"):
        left_s = None if ends_at is None else max(0.0, ends_at - time.monotonic())
        over.append(wait_for(node, name, left_s))
        if not common.as_json:
            say(summary(over[-1]))
    if common.as_json:
        write_json({"job": over[0]} if len(over) == 1 else {"jobs": over})
    codes = [exit_code(last) if last["over"] else TIMED_OUT for last in over]
    return next((code for code in codes if code), 0)


def extend(job: str, longer: str, *, common: Common = DEFAULT) -> int:
    """Let a job take longer; says what that may cost at most.

    Parameters
    ----------
    job
        Its id, the beginning of its id, or its name.
    longer
        By how much: 30m, 2h, 1d.
    """
    told = common.node().post(f"{job_path(job)}/extend", {"more_s": parse_duration_s(longer)})
    if common.as_json:
        write_json(told)
        return 0
    write_lines([told["id"]])
    say(
        f"it may take {format_duration(told['max_duration_s'])} in all now; "
        f"that costs at most {told['at_most']} more"
    )
    return 0


def cancel(*jobs: str, common: Common = DEFAULT) -> int:
    """End jobs; money not earned by then is refunded.

    Parameters
    ----------
    jobs
        Ids, their beginnings, or names.
    """
    node = common.node()
    ids: list[str] = []
    for name in _named(jobs, "cancel"):
        ids.append(node.post(f"{job_path(name)}/cancel", {})["id"])
        if not common.as_json:
            write_lines([ids[-1]])
    if common.as_json:
        write_json({"id": ids[0]} if len(ids) == 1 else {"ids": ids})
    else:
        say(f"asked to stop; see how with: souk wait {ids[0][:12]}")
    return 0


def _named(jobs: tuple[str, ...], command: str) -> tuple[str, ...]:
    if not jobs:
        raise SpecError("no job is named", hint=f"souk {command} JOB; souk ps lists them")
    return jobs


def _list(jobs: list[dict[str, Any]], *, quiet: bool, as_json: bool) -> None:
    if as_json:
        write_json({"jobs": jobs})
    elif quiet:
        write_lines([job["id"] for job in jobs])
    else:
        rows = [
            (
                job["id"][:12],
                job["name"],
                job["state"],
                format_duration(job["metered_s"]),
                job["promised"],
                (job["provider"] or "-")[:12],
                job["reason"],
                _at(job.get("created")),
                job["attempts"],
                job["paid"],
                job["refunded"],
            )
            for job in jobs
        ]
        columns = ("id", "name", "state", "metered", "owed", "provider", "reason")
        more = ("submitted", "attempts", "paid", "refunded")
        none = "no jobs; start one with: souk run JOB.yaml"
        names = [job["id"] for job in jobs]
        write_table((*columns, *more), rows, none=none, wide=len(more), names=names)


def _section(title: str, lines: list[str]) -> None:
    if lines:
        write_lines(["", title, *(f"  {line}" for line in lines)])


def _at(seconds: float | None) -> str | None:
    return (seconds and time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))) or None


def _change(line: dict[str, Any]) -> str:
    return f"{_at(line['at'])}  {line['state']}  {line['reason']}".rstrip()


def _agreement(line: dict[str, Any]) -> str:
    return (
        f"{line['id'][:12]}  {line['phase']}  provider {line['peer'][:12]}  "
        f"{line['metered_s']}s  paid {line['paid']}  refunded {line['refunded']}  "
        f"slashed {line['slashed']}"
    )
