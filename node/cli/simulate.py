"""`souk simulate`: replay a trace under several policies and print one table. No decisions.

Reads files and draws; everything that is computed is computed in `market/simulate`. Also runs by
itself: `python -m node.cli.simulate`.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Annotated

import cyclopts
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from market.errors import MarketError, NotFoundError, SpecError
from market.placement import PLACEMENTS
from market.policy import POLICIES
from market.simulate import readers
from market.simulate.jobs import Job, Trace, dressed, generated, misdeclared
from market.simulate.metrics import Figures, of_queue, of_rounds
from market.simulate.placing import PlacingRun, run_placing
from market.simulate.planners import planner
from market.simulate.queueing import QueueRun, run_queue
from market.simulate.rounds import Knowledge, RoundRun, run_rounds
from market.slots import SLOT_POLICIES
from market.units import format_duration, format_money

TRACE_BYTES_MAX = 256 * 1024 * 1024
UNITS_MAX = 8192
GENERATED_JOBS = 500
DECIMALS = 6
ERROR_MAX = 5.0  # a factor of 150: beyond it a declaration is noise
Advance = Callable[[int, int], None]


def simulate(
    trace: Path | None = None,
    *,
    policy: Annotated[list[str] | None, cyclopts.Parameter(name=["--policy", "-p"])] = None,
    units: int = 32,
    jobs: int = 0,
    seed: int = 0,
    placement: str = "bestfit",
    backfill: bool = True,
    preempt: bool = False,
    rounds: bool | None = None,
    knowledge: str = "profile",
    error: float = 0.5,
    migrate: bool = False,
    throughputs: Path | None = None,
    nodes: Path | None = None,
    as_json: Annotated[bool, cyclopts.Parameter(name="--json", negative="")] = False,
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
    names = _names(policy)
    _check(units, jobs, placement, knowledge, error)
    if names[0] in PLACEMENTS:
        if plot is not None:
            raise SpecError("a placement experiment has no picture", hint="leave out --plot")
        found = _placings(_load(trace, None, nodes), names, seed, migrate=migrate, quiet=as_json)
        _print_placings(found, as_json=as_json)
        return
    loaded = _load(trace, throughputs, nodes)
    if loaded is None:
        loaded = Trace("generated", generated(jobs or GENERATED_JOBS, units, Random(seed)))
        chosen: Sequence[Job] = loaded.jobs
    else:
        chosen = dressed(loaded.jobs[: jobs or None], Random(seed))
    chosen = [job for job in chosen if job.units <= units]
    if not chosen:
        raise SpecError(f"no job of the trace fits {units} units", hint="give more --units")
    in_rounds = bool(loaded.rounds) if rounds is None else rounds
    if in_rounds and not loaded.rounds:
        raise SpecError("only Gavel and Shockwave traces say enough to be run in rounds")
    runs: dict[str, QueueRun | RoundRun] = {}
    with _progress(quiet=as_json) as bar:
        for name in names:
            advance = _advance(bar, name)
            if in_rounds:
                said = misdeclared(loaded.rounds, error, Random(seed))
                runs[name] = _in_rounds(loaded, chosen, name, units, (knowledge, said), advance)
            else:
                runs[name] = run_queue(
                    chosen,
                    units,
                    POLICIES[name],
                    placement=placement,
                    deep=backfill,
                    preempt=preempt,
                    progress=advance,
                )
    figures = [
        of_rounds(name, run, chosen) if isinstance(run, RoundRun) else of_queue(name, run)
        for name, run in runs.items()
    ]
    how = "in rounds of 120 s" if in_rounds else "run to completion"
    _print_figures(
        figures, f"{loaded.name}: {len(chosen)} jobs on {units} GPUs, {how}", as_json=as_json
    )
    if plot is not None:
        # Imported late: a node has no use for a plotting library.
        from node.cli.figure import draw

        draw(plot, runs, f"{loaded.name}: {len(chosen)} jobs on {units} GPUs, {how}")


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


def read_text(path: Path) -> str:
    """A trace file, unpacked if gzipped, at most TRACE_BYTES_MAX.

    Raises NotFoundError and SpecError.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as stream:
            data = stream.read(TRACE_BYTES_MAX + 1)
    except FileNotFoundError as problem:
        raise NotFoundError(
            f"there is no file {path}", hint="give the path of a trace"
        ) from problem
    except (OSError, EOFError) as problem:
        raise SpecError(f"{path} cannot be read: {problem}") from problem
    if len(data) > TRACE_BYTES_MAX:
        raise SpecError(f"{path} is larger than {TRACE_BYTES_MAX} bytes unpacked")
    try:
        return data.decode()
    except UnicodeDecodeError as problem:
        raise SpecError(f"{path} is not text") from problem


def load_trace(path: Path, throughputs: Path | None = None, nodes: Path | None = None) -> Trace:
    """The trace in a file, with the table or the node list beside it where it needs one.

    Raises NotFoundError and SpecError.
    """
    text = read_text(path)
    match readers.kind_of(text):
        case "openb":
            beside = nodes or _beside(path, "*node_list*.csv*")
            return readers.read_openb(text, read_text(beside) if beside else "")
        case "philly":
            return readers.read_philly(text)
        case kind:
            table = (
                throughputs
                or _beside(path, "*simulation_throughputs.json*")
                or _beside(path, "*throughputs.json*")
            )
            if table is None:
                raise SpecError(
                    "this trace counts steps, and no table says how fast they are",
                    hint="give --throughputs FILE",
                )
            rates = readers.read_throughputs(read_text(table))
            read = readers.read_shockwave if kind == "shockwave" else readers.read_gavel
            return read(text, rates)


def _load(trace: Path | None, throughputs: Path | None, nodes: Path | None) -> Trace | None:
    return None if trace is None else load_trace(trace, throughputs, nodes)


def _beside(trace: Path, pattern: str) -> Path | None:
    return next(iter(sorted(trace.resolve().parent.glob(pattern))), None)


def _check(units: int, jobs: int, placement: str, knowledge: str, error: float) -> None:
    if not 1 <= units <= UNITS_MAX:
        raise SpecError(f"a site has 1 to {UNITS_MAX} units, not {units}")
    if jobs < 0:
        raise SpecError("--jobs counts jobs; 0 means all of them")
    if placement not in SLOT_POLICIES:
        raise SpecError(f"--placement is one of {', '.join(SLOT_POLICIES)}, not {placement!r}")
    if knowledge not in {one.value for one in Knowledge}:
        known = ", ".join(one.value for one in Knowledge)
        raise SpecError(f"--knowledge is one of {known}, not {knowledge!r}")
    if not 0 <= error <= ERROR_MAX:
        raise SpecError(f"--error is a sigma from 0 to {ERROR_MAX}, not {error}")


def _names(policy: Sequence[str] | None) -> list[str]:
    names = [part for text in policy or list(POLICIES) for part in text.split(",") if part]
    for name in names:
        if name not in POLICIES and name not in PLACEMENTS:
            raise SpecError(
                f"no policy is called {name!r}",
                hint=f"one of {', '.join(POLICIES)}; or a placement: {', '.join(PLACEMENTS)}",
            )
    if len({name in POLICIES for name in names}) != 1:
        raise SpecError(
            "queue policies and placements are different experiments", hint="run them one by one"
        )
    return list(dict.fromkeys(names))


def _in_rounds(
    loaded: Trace,
    chosen: Sequence[Job],
    name: str,
    units: int,
    known: tuple[str, Mapping[int, float]],
    advance: Advance,
) -> RoundRun:
    ids = {job.job_id for job in chosen}
    return run_rounds(
        [one for one in loaded.rounds if one.job_id in ids],
        loaded.throughputs,
        units,
        planner(name, chosen),
        knowledge=Knowledge(known[0]),
        declared_s=known[1],
        progress=advance,
    )


def _placings(
    loaded: Trace | None, names: Sequence[str], seed: int, *, migrate: bool, quiet: bool
) -> list[PlacingRun]:
    if loaded is None or not loaded.shapes or not loaded.machines:
        raise SpecError(
            "placements need an openb pod list and its node list",
            hint="souk simulate openb_pod_list_default.csv.gz --nodes openb_node_list_gpu_node.csv",
        )
    with _progress(quiet=quiet) as bar:
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


def _progress(*, quiet: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description:>10}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )


def _advance(bar: Progress, name: str) -> Advance:
    task: TaskID = bar.add_task(name, total=None)

    def advance(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    return advance


def _print_figures(figures: Sequence[Figures], title: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(one) for one in figures], indent=2))
        return
    table = Table(title=title)
    heads = (
        "policy;wait p50;p95;p99;JCT mean;makespan;cost;util %;idle GPUs;Jain;worst FTF;"
        "unfair %;SLO %;moves"
    )
    for index, head in enumerate(heads.split(";")):
        table.add_column(head, justify="right" if index else "left", no_wrap=True)
    for one in figures:
        table.add_row(
            one.policy,
            format_duration(one.wait_p50_s),
            format_duration(one.wait_p95_s),
            format_duration(one.wait_p99_s),
            format_duration(one.jct_mean_s),
            format_duration(one.makespan_s),
            f"{float(format_money(one.cost, DECIMALS)):,.2f}",
            f"{100 * one.utilisation:.1f}",
            f"{one.unallocated_gpus:.2f}",
            f"{one.jain:.3f}",
            f"{one.worst_ftf:.2f}",
            f"{one.unfair_pct:.1f}",
            "-" if one.slo_pct is None else f"{one.slo_pct:.1f}",
            str(one.moves),
        )
    _show(table)


def _print_placings(found: Sequence[PlacingRun], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return
    table = Table(title="placement until demand is 130 % of the GPUs")
    for index, head in enumerate(
        ("policy", "allocated % at 100 %", "at the end", "unallocated GPUs", "failed", "moves")
    ):
        table.add_column(head, justify="right" if index else "left")
    for one in found:
        table.add_row(
            one.policy,
            f"{one.at_100_pct:.2f}",
            f"{one.final_pct:.2f}",
            f"{one.unallocated_gpus:.1f}",
            f"{one.failed}/{one.tasks}",
            str(one.moves),
        )
    _show(table)


def _show(table: Table) -> None:
    # A table in a pipe is for a file or a pager: it is never folded to 80 columns.
    Console(width=None if Console().is_terminal else 180).print(table)


if __name__ == "__main__":
    main()
