"""`souk simulate`: replay a trace under several policies and print one table. No decisions.

Everything that is computed is computed in `market/simulate`; files are `traces`' part, tables
`simulated`'s, pictures `figure`'s. Also runs by itself: `python -m node.cli.simulate`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Annotated

import cyclopts
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from market.errors import MarketError, SpecError
from market.placement import PLACEMENTS
from market.policy import POLICIES
from market.simulate.jobs import Job, Trace, dressed, generated, misdeclared
from market.simulate.metrics import of_queue, of_rounds
from market.simulate.moving import Reallocation, run_moving
from market.simulate.placing import PlacingRun, run_placing
from market.simulate.planners import planner
from market.simulate.queueing import QueueRun, run_queue
from market.simulate.rounds import ROUND_S, Knowledge, RoundRun, run_rounds
from market.simulate.training import Mode
from market.slots import SLOT_POLICIES
from node.cli.simulated import print_figures, print_placings
from node.cli.traces import load_churn, load_trace

UNITS_MAX = 8192
GENERATED_JOBS = 500
GENERATED_JOBS_MAX = 100_000  # what a site of thousands of units sees in a quarter of a year
ERROR_MAX = 5.0  # a factor of 150: beyond it a declaration is noise
Runs = Mapping[str, QueueRun | RoundRun]
Advance = Callable[[int, int], None]
Names = Annotated[list[str] | None, cyclopts.Parameter(name=["--policy", "-p"])]
AsJson = Annotated[bool, cyclopts.Parameter(name="--json", negative="")]


def simulate(
    trace: Path | None = None,
    *,
    policy: Names = None,
    units: int = 32,
    jobs: int = 0,
    seed: int = 0,
    placement: str = "bestfit",
    backfill: bool = True,
    preempt: bool = False,
    rounds: bool | None = None,
    knowledge: str = "profile",
    error: float = 0.5,
    churn: Path | None = None,
    reallocation: list[str] | None = None,
    reliable: int | None = None,
    migrate: bool = False,
    throughputs: Path | None = None,
    nodes: Path | None = None,
    as_json: AsJson = False,
    plot: Path | None = None,
) -> None:
    """Replay a trace under one or several policies and print one table.

    Parameters
    ----------
    trace
        A trace: openb pod list, Philly csv, Gavel or Shockwave .trace, plain or gzipped. None:
        a generated one.
    policy
        fcfs, priority, fair, load, cost, latency, all of them by default; or, for an openb list,
        placements: fgd, balanced, pack, spread, bestfit, dotprod, clustering, random.
    units
        GPUs of the site. An openb list with placements uses its own machines instead.
    jobs
        Only the first so many jobs; 0 means all, and 500 where the trace is generated.
    seed
        What no trace says (prices, priorities, deadlines) is drawn from it.
    placement
        Which units a job gets: bestfit, pack, spread or fgd.
    backfill
        EASY backfill behind the head of the queue.
    preempt
        Stop preemptible jobs where that pays.
    rounds
        Jobs pause between rounds of 120 s. The default for Gavel and Shockwave traces.
    knowledge
        In rounds, what is known of durations: profile (every epoch), progress (steps left),
        declared (what was declared, and progress once it runs) or blind (what was declared).
    error
        How wrong declared durations are: the sigma of a log-normal factor.
    churn
        A log of cheap units that come and go: `t_ms,add|remove,node`, or `date, time, count`.
    reallocation
        With --churn, what a job does then: restart, recover, better, uniform, reliable.
    reliable
        With --churn, how many units stay, at 2.5 times the price; by default as many as --units.
    migrate
        With placements: a job that fits nowhere may move one other.
    throughputs
        Gavel's table of steps/s; by default the one beside the trace.
    nodes
        The machines for an openb list; by default the list beside it.
    as_json
        Print JSON instead of a table.
    plot
        Write a picture: FILE.png, .svg or .pdf.
    """
    _check(units, jobs, placement, knowledge, error)
    _check_churn(churn, reallocation, reliable)
    found = None if trace is None else load_trace(trace, throughputs, nodes)
    names = _names(policy or _usual(found, churn))
    if plot is not None:
        # Imported late: a node has no use for a plotting library.
        from node.cli import figure

        figure.check(plot)  # before an hour of simulation, not after it
    if names[0] in PLACEMENTS:
        placed = _placings(found, names, seed, migrate=migrate, churned=churn is not None)
        print_placings(placed, as_json=as_json)
        if plot is not None:
            figure.draw_placings(plot, placed)
        return
    loaded, chosen = _jobs(found, jobs, units, seed)
    in_rounds = (bool(loaded.rounds) if rounds is None else rounds) and churn is None
    if rounds and (churn or not loaded.rounds):
        raise SpecError(
            "only Gavel and Shockwave traces say enough to be run in rounds, and not with --churn",
            hint="leave out --rounds",
        )
    if churn is not None:
        dear = units if reliable is None else reliable
        rules = _rules(reallocation, dear)
        runs: Runs = _with_churn(chosen, churn, names, rules, units, dear)
    elif in_rounds:
        said = misdeclared(loaded.rounds, error, Random(seed))
        runs = _in_rounds(loaded, chosen, names, units, Knowledge(knowledge), said)
    else:
        runs = _in_a_queue(chosen, names, units, placement, deep=backfill, preempt=preempt)
    how = _in_words(loaded, knowledge) if in_rounds else "run to completion"
    how = "on units that come and go" if churn else how
    title = f"{loaded.name}: {len(chosen)} jobs on {units} GPUs, {how}"
    figures = [
        of_rounds(name, run, chosen) if isinstance(run, RoundRun) else of_queue(name, run)
        for name, run in runs.items()
    ]
    print_figures(figures, title, as_json=as_json, churn=churn is not None)
    if plot is not None:
        figure.draw(plot, runs, title)


def main() -> None:
    """Run the command by itself."""
    app = cyclopts.App(name="simulate", version_flags=[])
    app.default(simulate)
    try:
        app()
    except MarketError as problem:
        console = Console(stderr=True, highlight=False)
        console.print(f"error: {problem}", style="red")
        if problem.hint:
            console.print(f"  {problem.hint}")
        sys.exit(problem.exit_code)


# What was asked for.


def _check(units: int, jobs: int, placement: str, knowledge: str, error: float) -> None:
    if not 1 <= units <= UNITS_MAX:
        raise SpecError(f"a site has 1 to {UNITS_MAX} units, not {units}", hint="give --units 32")
    if jobs < 0:
        raise SpecError("--jobs counts jobs; 0 means all of them", hint="leave it out for all")
    if placement not in SLOT_POLICIES:
        raise SpecError(f"--placement is one of {', '.join(SLOT_POLICIES)}, not {placement!r}")
    if knowledge not in {one.value for one in Knowledge}:
        known = ", ".join(one.value for one in Knowledge)
        raise SpecError(f"--knowledge is one of {known}, not {knowledge!r}")
    if not 0 <= error <= ERROR_MAX:
        raise SpecError(f"--error is a sigma from 0 to {ERROR_MAX:g}, not {error}")


def _check_churn(
    churn: Path | None, reallocation: Sequence[str] | None, reliable: int | None
) -> None:
    if churn is None and (reallocation or reliable is not None):
        raise SpecError(
            "--reallocation and --reliable are about units that come and go",
            hint="give a log of them with --churn",
        )
    if reliable is not None and not 0 <= reliable <= UNITS_MAX:
        raise SpecError(f"--reliable is 0 to {UNITS_MAX} units, not {reliable}")


def _names(policy: Sequence[str]) -> list[str]:
    names = [part.strip() for text in policy for part in text.split(",") if part.strip()]
    known = f"one of {', '.join(POLICIES)}; or a placement: {', '.join(PLACEMENTS)}"
    if not names:
        raise SpecError("--policy names no policy", hint=known)
    for name in names:
        if name not in POLICIES and name not in PLACEMENTS:
            raise SpecError(f"no policy is called {name!r}", hint=known)
    if len({name in POLICIES for name in names}) != 1:
        raise SpecError(
            "queue policies and placements are different experiments", hint="run them one by one"
        )
    return list(dict.fromkeys(names))


def _rules(reallocation: Sequence[str] | None, dear: int) -> list[Reallocation]:
    every = [one.value for one in Reallocation]
    if reallocation is None and not dear:
        return [Reallocation.RESTART, Reallocation.RECOVER]  # the others need units that stay
    names = [part.strip() for text in reallocation or every for part in text.split(",")]
    for name in names:
        if name not in every:
            raise SpecError(
                f"no reallocation is called {name!r}", hint=f"one of {', '.join(every)}"
            )
    return [Reallocation(name) for name in dict.fromkeys(names)]


def _usual(found: Trace | None, churn: Path | None) -> list[str]:
    """The policies that a trace is for: placements, where its jobs have no lifetime."""
    if found is not None and found.machines and not found.jobs:
        return ["random", "pack", "bestfit", "fgd", "balanced"]
    return ["fcfs"] if churn else list(POLICIES)


def _jobs(found: Trace | None, count: int, units: int, seed: int) -> tuple[Trace, Sequence[Job]]:
    """The trace, and its jobs that fit the site, dressed with what no trace says."""
    if found is None:
        if count > GENERATED_JOBS_MAX:
            raise SpecError(f"--jobs: at most {GENERATED_JOBS_MAX} are generated, not {count}")
        drawn = generated(count or GENERATED_JOBS, units, Random(seed))
        return Trace("generated", drawn), drawn
    if not found.jobs:
        raise SpecError(
            "the trace has no job with a GPU and a lifetime",
            hint="placements need no lifetime: -p fgd,bestfit",
        )
    chosen = [
        job for job in dressed(found.jobs[: count or None], Random(seed)) if job.units <= units
    ]
    if not chosen:
        raise SpecError(f"no job of the trace fits {units} units", hint="give more --units")
    left_out = len(found.jobs[: count or None]) - len(chosen)
    if left_out:
        print(f"{left_out} jobs want more than {units} GPUs and are left out", file=sys.stderr)
    return found, chosen


# The runs.


def _in_a_queue(
    chosen: Sequence[Job],
    names: Sequence[str],
    units: int,
    placement: str,
    *,
    deep: bool,
    preempt: bool,
) -> Runs:
    with _progress() as bar:
        return {
            name: run_queue(
                chosen,
                units,
                POLICIES[name],
                placement=placement,
                deep=deep,
                preempt=preempt,
                progress=_advance(bar, name),
            )
            for name in names
        }


def _in_rounds(
    loaded: Trace,
    chosen: Sequence[Job],
    names: Sequence[str],
    units: int,
    knowledge: Knowledge,
    said: Mapping[int, float],
) -> Runs:
    ids = {job.job_id for job in chosen}
    with _progress() as bar:
        return {
            name: run_rounds(
                [one for one in loaded.rounds if one.job_id in ids],
                loaded.throughputs,
                units,
                planner(name, chosen),
                knowledge=knowledge,
                declared_s=said,
                progress=_advance(bar, name),
            )
            for name in names
        }


def _in_words(loaded: Trace, knowledge: str) -> str:
    """What a replay in rounds replays, and what its scheduler knows: a reader must not guess."""
    adaptive = any(one.training.mode is not Mode.STATIC for one in loaded.rounds)
    modes = "batch-size modes replayed" if adaptive else "no batch-size modes in it"
    return f"rounds of {ROUND_S:.0f} s, {modes}, durations known by {knowledge}"


def _with_churn(
    chosen: Sequence[Job],
    log: Path,
    names: Sequence[str],
    rules: Sequence[Reallocation],
    units: int,
    dear: int,
) -> Runs:
    supply = load_churn(log)
    runs: dict[str, QueueRun | RoundRun] = {}
    with _progress() as bar:
        for name in names:
            for rule in rules:
                label = f"{name} {rule.value}" if len(names) > 1 else rule.value
                advance = _advance(bar, label)
                order = POLICIES[name]
                run = run_moving(
                    chosen, supply, order, rule, units=units, dear=dear, progress=advance
                )
                if not run.jobs:
                    raise SpecError(
                        f"no job ends with {rule.value}: {run.refused} are too wide for its units, "
                        f"{len(run.failed)} lost them too often",
                        hint="give --reliable units, or another --reallocation",
                    )
                runs[label] = run
    return runs


def _placings(
    loaded: Trace | None, names: Sequence[str], seed: int, *, migrate: bool, churned: bool
) -> list[PlacingRun]:
    if churned:
        raise SpecError("nothing ends in a placement experiment", hint="leave out --churn")
    if loaded is None or not loaded.shapes or not loaded.machines:
        raise SpecError(
            "placements need an openb pod list and its node list",
            hint="souk simulate openb_pod_list_default.csv.gz --nodes openb_node_list_gpu_node.csv",
        )
    with _progress() as bar:
        return [
            run_placing(
                loaded.machines,
                loaded.shapes,
                name,
                seed,
                migrate=migrate,
                progress=_advance(bar, name),
            )
            for name in names
        ]


def _progress() -> Progress:
    """Bars on stderr where a person looks at it; the table on stdout stays clean either way."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description:>10}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _advance(bar: Progress, name: str) -> Advance:
    task: TaskID = bar.add_task(name, total=None)

    def advance(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    return advance


if __name__ == "__main__":
    main()
