"""Run, validate, explain: the commands that take a job file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from market.errors import MarketError, SpecError
from market.limits import ENV_BYTES_MAX
from node.cli.follow import exit_code, follow, job_path, summary
from node.cli.options import DEFAULT, Common
from node.cli.output import say, sending, write_json, write_lines
from node.cli.plans import check_funds, show_plan
from node.client.http import Node, NodeDownError
from node.client.jobfile import JobFile, read_job_file
from node.client.submission import ask, prepare, send, submit

TOKEN_DECIMALS = 6  # of the default token; only to check a file while no node runs


class UnconfirmedError(MarketError):
    """Nobody said yes."""

    code = "unconfirmed"
    exit_code = 2


def run(
    job: Path,
    *,
    detach: Annotated[bool, Parameter(name=["--detach", "-d"], negative="")] = False,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative="")] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False,
    env: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    secret: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    name: str | None = None,
    key: str = "",
    common: Common = DEFAULT,
) -> int:
    """Run a job file on the market: plan, confirm, submit, follow to the end.

    Parameters
    ----------
    job
        The job file (YAML), - for standard input.
    detach
        Submit, print the id, and return.
    yes
        Do not ask.
    quiet
        Print only the id; implies --detach.
    env
        NAME=VALUE for the job, over the file's envs. May be repeated.
    secret
        NAME of a secret, its value read from that environment variable, or NAME@FILE. May be
        repeated.
    name
        Call the job so.
    key
        One key, one job: said again, after a crash of a script too, it is the same job.
    """
    settings = common.settings()
    node = Node(settings.socket_path)
    file = _with_flags(read_job_file(job), env, name)
    secrets = dict(_secret(item) for item in secret)
    prepared = prepare(node, file, settings, secrets)
    show_plan(prepared.plan)
    check_funds(prepared.plan)
    _confirm(yes)
    with sending() as progress:
        send(node, prepared, progress)
    id_ = submit(node, prepared, secrets, key)
    if detach or quiet:
        if common.as_json:
            write_json({"job": node.get(job_path(id_))})
        else:
            write_lines([id_])
        return 0
    say(f"submitted as {id_[:12]}; Ctrl-C leaves it running")
    last = follow(node, id_, log=True, log_to_stderr=common.as_json)
    say(summary(last))
    if last["results"]:
        say(f"fetch {len(last['results'])} result(s) with: souk get {id_[:12]}")
    if common.as_json:
        write_json({"job": last})
    return exit_code(last)


def validate(job: Path, *, common: Common = DEFAULT) -> int:
    """Check a job file, and say what it may cost at most.

    Parameters
    ----------
    job
        The job file (YAML), - for standard input.
    """
    node = common.node()
    file = read_job_file(job)
    try:
        plan = ask(node, "/api/validate", file)
    except NodeDownError:
        _check_here(file)
        plan = {}
        say("checked without a node: the costs are unknown")
    if common.as_json:
        write_json({"valid": True, "plan": plan})
    else:
        write_lines([f"{file.name}: in order"])
        show_plan(plan)
    return 0


def explain(job: Path, *, common: Common = DEFAULT) -> int:
    """Say what the market has for a job file, and what would let more offers fit.

    Parameters
    ----------
    job
        The job file (YAML), - for standard input.
    """
    node = common.node()
    told = ask(node, "/api/explain", read_job_file(job))
    if common.as_json:
        write_json(told)
    else:
        write_lines(told["lines"])
    return 0


def _with_flags(file: JobFile, env: tuple[str, ...], name: str | None) -> JobFile:
    if name is not None:
        file.raw["name"] = name
    for item in env:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise SpecError(f"--env {item}: no value", hint="write it like --env EPOCHS=3")
        envs = file.raw.get("envs")
        file.raw["envs"] = {**(envs if isinstance(envs, dict) else {}), key: value}
    return file


def _secret(item: str) -> tuple[str, str]:
    name, at, path = item.partition("@")
    if "=" in item:
        raise SpecError("--secret: a value on the command line is not a secret",
                        hint="give the name of an environment variable, or NAME@FILE")  # fmt: skip
    if at:
        try:
            with Path(path).expanduser().open("rb") as opened:
                data = opened.read(ENV_BYTES_MAX + 1)
            value = data.decode().removesuffix("\n")
        except (OSError, UnicodeDecodeError) as problem:
            raise SpecError(f"--secret {name}: cannot read {path}") from problem
    elif name in os.environ:
        value = os.environ[name]
    else:
        raise SpecError(f"--secret {name}: no such environment variable",
                        hint=f"export {name}, or give --secret {name}@FILE")  # fmt: skip
    if len(value.encode()) > ENV_BYTES_MAX:
        raise SpecError(f"--secret {name}: longer than {ENV_BYTES_MAX} bytes")
    return name, value


def _check_here(file: JobFile) -> None:
    from market.spec import parse  # numpy-free, but a tenth of a second that only this needs

    try:
        parse(file.raw, decimals=TOKEN_DECIMALS)
    except SpecError as problem:
        raise file.located(problem) from None


def _confirm(yes: bool) -> None:
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UnconfirmedError("there is no terminal to ask on", hint="say yes with -y")
    print("run it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UnconfirmedError("not submitted", hint="nothing was spent")
