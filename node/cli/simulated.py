"""What `souk simulate` prints: one table for people, or JSON. It formats and decides nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from market.simulate.metrics import Figures
from market.simulate.placing import PlacingRun
from market.units import format_duration, format_money

DECIMALS = 6


def print_figures(
    figures: Sequence[Figures], title: str, *, as_json: bool, churn: bool = False
) -> None:
    """One row for each run; with `churn` also what was lost and who failed."""
    if as_json:
        print(json.dumps([asdict(one) for one in figures], indent=2))
        return
    table = Table(title=title)
    heads = (
        "policy;wait p50;p95;p99;JCT mean;makespan;cost;util %;idle GPUs;Jain;worst FTF;"
        "unfair %;SLO %;moves"
    )
    heads += ";lost GPU-h;failed" if churn else ""
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
            *((f"{one.lost_gpu_h:.2f}", str(one.failed)) if churn else ()),
        )
    _show(table)


def print_placings(found: Sequence[PlacingRun], *, as_json: bool) -> None:
    """One row for each placement policy."""
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
