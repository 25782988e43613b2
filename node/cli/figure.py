"""The picture of a simulation: queue, utilisation, completion times, and who held which GPU.

Draws what it is given and decides nothing. matplotlib is an extra of the package, asked for here
and nowhere else.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from market.errors import SpecError
from market.simulate.metrics import round_samples
from market.simulate.placing import PlacingRun
from market.simulate.queueing import QueueRun, Sample
from market.simulate.rounds import RoundRun
from market.units import HOUR_S

FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito's palette: told apart in grey and by the colour-blind.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
OTHERS, GONE = "#999999", "#E4E4E4"
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
TIMELINE_UNITS_MAX = 64  # more rows than this and a bar is thinner than a line
REQUESTERS_NAMED_MAX = 8  # as many as there are colours
TICKS = (
    (1 / 60, "1 min"),
    (5 / 60, "5 min"),
    (1 / 4, "15 min"),
    (1.0, "1 h"),
    (4.0, "4 h"),
    (24.0, "1 d"),
    (96.0, "4 d"),
    (384.0, "16 d"),
    (1536.0, "64 d"),
)

_UNDATED: Mapping[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}

Bar = tuple[float, float, int, str]
"""(start h, hours, unit, requester)."""


def check(path: Path) -> None:
    """Raise SpecError where no picture could be written to `path` later."""
    if path.suffix.lower() not in FORMATS:
        raise SpecError(f"{path.name} is no picture", hint=f"name it *{', *'.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise SpecError(
            "pictures need matplotlib", hint="install it with: pip install 'gridsouk[plot]'"
        )
    if not path.resolve().parent.is_dir():
        raise SpecError(f"there is no directory {path.parent}", hint="make it first")


def draw(path: Path, runs: Mapping[str, QueueRun | RoundRun], title: str) -> None:
    """Write the picture of the runs, by policy name, to a PNG, SVG or PDF. Raises SpecError."""
    with _page(path, title) as figure:
        axes = figure.subplots(2, 2)
        # The timeline is of the last run, where units come and go of the last that shows it.
        last = [name for name, one in runs.items() if isinstance(one, QueueRun) and one.gone]
        name = last[-1] if last else list(runs)[-1]
        _over_time(axes[0][0], runs)
        _utilisation(axes[0][1], runs)
        _completion(axes[1][0], runs)
        _timeline(axes[1][1], runs[name], name)
        _legend(figure, axes[0][0])


def draw_placings(path: Path, runs: Sequence[PlacingRun]) -> None:
    """Write allocation over demand, as in Figure 9(a) of the FGD paper. Raises SpecError."""
    with _page(path, "placement until demand is 130 % of the GPUs", size=(8, 3.6)) as figure:
        whole, near = figure.subplots(1, 2)
        low = min((run.final_pct for run in runs), default=90.0)
        for index, run in enumerate(runs):
            demand, allocated = zip(*run.curve, strict=True)
            for axes in (whole, near):
                axes.plot(demand, allocated, label=run.policy, lw=1.2, **_look(index))
        for axes in (whole, near):
            axes.plot([0, 100, 130], [0, 100, 100], color="0.6", lw=0.8, ls=":", zorder=0)
            axes.set(xlabel="GPUs demanded (% of all)", ylabel="GPUs allocated (%)")
        whole.set(title="(a) allocation", xlim=(0, 130), ylim=(0, 103))
        near.set(title="(b) near saturation", xlim=(85, 130), ylim=(min(85, low - 2), 101))
        _legend(figure, whole)


@contextmanager
def _page(path: Path, title: str, size: tuple[float, float] = (10, 6.4)) -> Iterator[Any]:
    """A figure that is written when the block is left. The same input gives the same bytes."""
    check(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # The same seed gives the same file: ids in an SVG are salted and dates left out.
    settings = {
        "font.size": 8,
        "font.family": "DejaVu Sans",
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.5,
        "svg.hashsalt": "gridsouk",
        "savefig.dpi": 200,
    }
    with pyplot.rc_context(settings):
        figure = pyplot.figure(figsize=size, layout="constrained")
        figure.suptitle(title, fontsize=10, fontweight="bold")
        metadata = _UNDATED.get(path.suffix.lower(), {})
        try:
            yield figure
            figure.savefig(path, metadata=metadata)
        except OSError as problem:
            raise SpecError(f"{path} cannot be written: {problem}") from problem
        finally:
            pyplot.close(figure)


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(8, len(labels)), frameon=False
    )


def _over_time(axes: Any, runs: Mapping[str, QueueRun | RoundRun]) -> None:
    for index, (name, run) in enumerate(runs.items()):
        samples = _samples(run)
        axes.step(
            [one.at_s / HOUR_S for one in samples],
            [one.queued for one in samples],
            where="post",
            label=name,
            lw=1.1,
            **_look(index),
        )
    axes.set(xlabel="time (h)", ylabel="jobs waiting", title="(a) queue length")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)


def _utilisation(axes: Any, runs: Mapping[str, QueueRun | RoundRun]) -> None:
    for index, (name, run) in enumerate(runs.items()):
        times, shares = _smoothed(_samples(run), run.units)
        axes.plot(times, shares, label=name, lw=1.1, **_look(index))
    axes.set(xlabel="time (h)", ylabel="GPUs busy (%)", title="(b) utilisation")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 103)


def _completion(axes: Any, runs: Mapping[str, QueueRun | RoundRun]) -> None:
    for index, (name, run) in enumerate(runs.items()):
        times = sorted(_jct(run))
        shares = [(rank + 1) / len(times) for rank in range(len(times))]
        hours = [max(one, 1.0) / HOUR_S for one in times]
        axes.step(hours, shares, where="post", label=name, lw=1.1, **_look(index))
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    marks = [(hours, label) for hours, label in TICKS if low <= hours <= high]
    axes.set_xticks([hours for hours, _ in marks], [label for _, label in marks])
    axes.minorticks_off()
    axes.set(xlabel="completion time", ylabel="share of jobs", title="(c) CDF of JCT")
    axes.set_ylim(0, 1.02)


def _timeline(axes: Any, run: QueueRun | RoundRun, name: str) -> None:
    bars = _bars(run)
    shown = min(run.units, TIMELINE_UNITS_MAX)
    busiest: dict[str, float] = {}
    for _, hours, unit, who in bars:
        if unit < shown:
            busiest[who] = busiest.get(who, 0.0) + hours
    ranked = sorted(busiest, key=lambda who: (-busiest[who], who))
    named = ranked[:REQUESTERS_NAMED_MAX]
    colour = dict(zip(named, COLOURS, strict=False))
    rows: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for start, hours, unit, who in bars:
        if unit < shown:
            rows.setdefault((unit, who), []).append((start, hours))
    for (unit, who), spans in sorted(rows.items()):
        axes.broken_barh(
            spans,
            (unit + 0.08, 0.84),
            facecolors=colour.get(who, OTHERS),
            edgecolor="white",
            lw=0.15,
        )
    gone = run.gone if isinstance(run, QueueRun) else ()
    for unit, start, end in gone:
        if unit < shown:
            span = (start / HOUR_S, (end - start) / HOUR_S)
            axes.broken_barh([span], (unit + 0.08, 0.84), facecolors=GONE, lw=0, zorder=0)
    axes.set(xlabel="time (h)", ylabel="GPU", title=f"(d) who held which GPU ({name})")
    axes.set_xlim(left=0)
    axes.set_ylim(0, shown)
    axes.grid(visible=False)
    for who in named:
        axes.plot([], [], color=colour[who], lw=4, label=who)
    if len(ranked) > len(named):
        axes.plot([], [], color=OTHERS, lw=4, label=f"{len(ranked) - len(named)} others")
    if gone:
        axes.plot([], [], color=GONE, lw=4, label="unit not there")
    axes.legend(fontsize=6, ncols=1, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _look(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "ls": STYLES[index % len(STYLES)]}


def _samples(run: QueueRun | RoundRun) -> Sequence[Sample]:
    return round_samples(run) if isinstance(run, RoundRun) else run.samples


def _jct(run: QueueRun | RoundRun) -> list[float]:
    if isinstance(run, RoundRun):
        return list(run.jct_s().values())
    return [run.finish_s[job.job_id] - job.arrival_s for job in run.jobs]


def _smoothed(
    samples: Sequence[Sample], units: int, windows: int = 120
) -> tuple[list[float], list[float]]:
    """Mean busy share, in percent, over so many equal windows of the run."""
    begin, end = samples[0].at_s, samples[-1].at_s
    width = (end - begin) / windows or 1.0
    busy = [0.0] * windows
    for now, then in pairwise(samples):
        at = now.at_s
        while at < then.at_s:
            window = min(windows - 1, int((at - begin) / width))
            until = (
                then.at_s
                if window == windows - 1
                else min(then.at_s, max(begin + (window + 1) * width, at + width * 1e-6))
            )
            busy[window] += now.busy_units * (until - at)
            at = until
    hours = [(begin + (index + 0.5) * width) / HOUR_S for index in range(windows)]
    return hours, [100.0 * one / (units * width) for one in busy]


def _bars(run: QueueRun | RoundRun) -> list[Bar]:
    if isinstance(run, QueueRun):
        return [
            (span.start_s / HOUR_S, (span.end_s - span.start_s) / HOUR_S, unit, span.requester)
            for span in run.spans
            for unit in range(span.units.bit_length())
            if span.units >> unit & 1
        ]
    return _round_bars(run)


def _round_bars(run: RoundRun) -> list[Bar]:
    """Units are not named by a replay in rounds: jobs keep theirs where they can."""
    by_id = {job.job_id: job for job in run.jobs}
    held: dict[int, tuple[int, ...]] = {}
    since: dict[int, float] = {}
    bars: list[Bar] = []

    def close(one: int, end: float) -> None:
        start, label = since.pop(one), f"{by_id[one].units} GPU"
        bars.extend((start / HOUR_S, (end - start) / HOUR_S, unit, label) for unit in held.pop(one))

    for start, _, ids in run.rounds:
        for one in [one for one in held if one not in ids]:
            close(one, start)
        free = sorted(set(range(run.units)) - {unit for units in held.values() for unit in units})
        for one in ids:
            if one not in held:
                count = by_id[one].units
                held[one], free, since[one] = tuple(free[:count]), free[count:], start
    for one in list(held):
        close(one, run.makespan_s)
    return bars
