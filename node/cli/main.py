"""Main: the `souk` program. Names the commands, and turns every failure into one line and a code.

Exit codes: 0 ok, 1 error, 2 usage or a wrong file, 3 no node, 5 no match, 6 no funds, 100 the job
failed, 101 it is not over, 102 not found, 103 cancelled, 124 timed out, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

from cyclopts import App
from cyclopts.exceptions import CycloptsError, MissingArgumentError, UnusedCliTokensError

from market.errors import MarketError, SpecError
from node.cli.output import FORMATS, choose_format, say, write_error

GROUPS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Jobs": {
        "run": ("node.cli.run:run", "Run a job file on the market."),
        "ps": ("node.cli.jobs:ps", "List jobs."),
        "show": ("node.cli.jobs:show", "Show a job with its history, money and results."),
        "logs": ("node.cli.jobs:logs", "Print a job's output."),
        "events": ("node.cli.events:events", "Print what happened to jobs, as it happens."),
        "wait": ("node.cli.jobs:wait", "Wait until jobs are over."),
        "get": ("node.cli.results:get", "Fetch a job's results."),
        "exec": ("node.cli.execute:exec_", "Run a program in a running job."),
        "forward": ("node.cli.forward:forward", "Reach a port of a running job from here."),
        "extend": ("node.cli.jobs:extend", "Let a job take longer."),
        "cancel": ("node.cli.jobs:cancel", "End jobs."),
        "validate": ("node.cli.run:validate", "Check a job file."),
        "schema": ("node.cli.schema:schema", "Print the job file's JSON Schema."),
    },
    "Market": {
        "offers": ("node.cli.offers:offers", "List live offers."),
        "challenge": ("node.cli.bench:challenge", "Find out whether an offer does what it says."),
        "explain": ("node.cli.run:explain", "Say what the market has for a job file."),
    },
    "Money": {
        "wallet": ("node.cli.wallet:wallet", "The wallet, its key file and its node's allowance."),
        "deposit": ("node.cli.money:deposit", "Move tokens of the wallet into the escrow."),
        "withdraw": ("node.cli.money:withdraw", "Take free money out of the escrow."),
        "stake": ("node.cli.money:stake", "Money that backs what this wallet sells."),
        "spend": ("node.cli.books:spend", "Say what agreements cost."),
    },
    "Node": {
        "up": ("node.cli.daemon:up", "Run a node."),
        "devnet": ("node.cli.devnet:devnet", "Run a market of your own on this machine, to try."),
        "status": ("node.cli.reports:status", "Show the node."),
        "doctor": ("node.cli.wellbeing:doctor", "Look over all of it; say what to fix."),
        "completion": ("node.cli.schema:completion", "Print a shell's completions."),
        "dashboard": ("node.cli.dashboard:dashboard", "Say where the web view is; open it."),
        "peers": ("node.cli.reports:peers", "List who is connected."),
        "service": ("node.cli.unit:service", "Run the node under systemd."),
        "image": ("node.cli.image:image", "Build images for jobs."),
        "provider": ("node.cli.provider:provider", "Sell this machine's units."),
    },
}
"""Every command by its group, named rather than imported: `souk ps` loads only what it needs."""

WATCHABLE: Final = (
    ("offers",), ("status",), ("peers",), ("wallet",), ("show",), ("spend",),
    ("provider", "status"), ("provider", "quotes"), ("provider", "earnings"),
)  # fmt: skip
"""Views that `-w` draws again whenever they change."""
WATCH_S: Final = 1.0
CLEAR: Final = "\x1b[H\x1b[2J"


def make_app() -> App:
    """The program's commands."""
    app = App(
        name="souk",
        help="An open market for GPU time: rent it, or rent it out.",
        version=lambda: importlib.metadata.version("gridsouk"),
        result_action="return_value",
    )
    for group, commands in GROUPS.items():
        for name, (target, summary) in commands.items():
            app.command(target, name=name, group=group, help=summary)
    if importlib.util.find_spec("node.cli.simulate") is not None:
        app.command(
            "node.cli.simulate:simulate",
            name="simulate",
            group="Market",
            help="Replay a trace under each policy.",
        )
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        given = without_format(given)
    except SpecError as problem:
        write_error("usage", str(problem), problem.hint, as_json="--json" in given)
        sys.exit(2)
    code = _watched(given) if _is_watched(given) else _run(given)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _nobody_reads()
    sys.exit(code)


def without_format(given: list[str]) -> list[str]:
    """The arguments without `-o FORMAT`, which every command has and none needs to know.

    Wherever it or `--json` stands, also before the command. `-o` of `souk offers` also names an
    order: what is no format stays there. Raises SpecError.
    """
    cut = given.index("--") if "--" in given else len(given)
    ours, theirs = given[:cut], given[cut:]  # behind -- is somebody else's
    if "-" in ours and not theirs:  # standard input, which the parser takes for half an option
        ours, theirs = [word for word in ours if word != "-"], ["--", "-"]
    as_json = "--json" in ours
    kept: list[str] = []
    words = iter([word for word in ours if word != "--json"])
    for word in words:
        name, equals, value = word.partition("=")
        if name not in ("-o", "--output"):
            kept.append(word)
            continue
        chosen = value if equals else next(words, "")
        if chosen in FORMATS:
            choose_format(chosen)
            as_json = as_json or chosen in ("json", "yaml")
        elif name == "-o" and kept[:1] == ["offers"]:
            kept += [word] if equals else [word, chosen]
        else:
            raise SpecError(f"{name} {chosen}: no such format", hint=f"one of {', '.join(FORMATS)}")
    if kept[:1] == ["help"]:
        kept = [*kept[1:], "--help"]
    return [*kept, *(["--json"] if as_json else []), *theirs]


def _is_watched(given: list[str]) -> bool:
    """Whether `-w` asks for a view that is drawn again; `ps` has one of its own."""
    flags = {"-w", "--watch"} & set(given)
    return bool(flags) and any(tuple(given[: len(view)]) == view for view in WATCHABLE)


def _watched(given: list[str]) -> int:
    """Run a command again and again, and show what it says whenever that changes."""
    given = [word for word in given if word not in ("-w", "--watch")]
    shown: str | None = None
    try:
        while True:
            said = io.StringIO()
            said.isatty = sys.stdout.isatty  # type: ignore[method-assign]  # a table stays one
            with contextlib.redirect_stdout(said):
                code = _run(given)
            if code:
                return code
            if said.getvalue() != shown:
                shown = said.getvalue()
                if sys.stdout.isatty():
                    print(CLEAR, end="")
                print(shown, end="", flush=True)
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        return 130


def _run(given: list[str]) -> int:
    as_json = "--json" in (given[: given.index("--")] if "--" in given else given)
    try:
        result = make_app()(given, exit_on_error=False, print_error=False)
    except CycloptsError as problem:
        write_error("usage", *_misused(problem), as_json=as_json)
        return 2
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        return _nobody_reads()
    except (MarketError, OSError, ImportError, BaseExceptionGroup) as problem:
        return _failed(problem, as_json)
    except Exception as problem:
        return _failed(problem, as_json)
    return result if isinstance(result, int) else 0


def _misused(problem: CycloptsError) -> tuple[str, str]:
    """What was typed wrongly, as its command would say it, and where to look."""
    chain = " ".join(problem.command_chain or ())
    where = f"see souk {chain} --help".replace("  ", " ")
    if isinstance(problem, MissingArgumentError) and problem.argument is not None:
        argument = problem.argument
        name = argument.name
        if argument.field_info.kind is not argument.field_info.KEYWORD_ONLY:
            name = name.lstrip("-").upper()
        return f"{chain}: {name} is missing", where
    if isinstance(problem, UnusedCliTokensError):
        words = " ".join(problem.unused_tokens or ())
        return f"{chain}: what is {words}?", where
    return " ".join(str(problem).split()), where


def _failed(problem: BaseException, as_json: bool) -> int:
    if "GRIDSOUK_TRACEBACK" in os.environ:
        raise problem
    leaves = list(_leaves(problem))
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return 130
    known = next((leaf for leaf in leaves if isinstance(leaf, MarketError)), None)
    if known is not None:
        write_error(known.code, str(known), known.hint, as_json=as_json)
        return known.exit_code
    first = leaves[0]
    message, hint = (
        f"{type(first).__name__}: {first}",
        "GRIDSOUK_TRACEBACK=1 shows where; report it",
    )
    if isinstance(first, OSError) and first.strerror:
        name = f"{os.fsdecode(first.filename)}: " if isinstance(first.filename, str | bytes) else ""
        message, hint = f"{name}{first.strerror}", "check the path, its room, and who may use it"
    write_error("internal", message, hint, as_json=as_json)
    return 1


def _leaves(problem: BaseException) -> Iterator[BaseException]:
    if isinstance(problem, BaseExceptionGroup):
        for inner in problem.exceptions:
            yield from _leaves(inner)
    else:
        yield problem


def _nobody_reads() -> int:
    # Python flushes stdout once more at exit; give it something that takes the rest.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    main()
