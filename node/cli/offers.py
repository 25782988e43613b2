"""Offers: the market as this node has heard of it."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from node.cli.options import DEFAULT, Common
from node.cli.output import write_json, write_lines, write_table
from node.client.query import ordered, parse_order, parse_query, select

_NAMES = """offer gpu_name num_gpus gpu_ram cpu_cores cpu_ram disk_space inet_down reliability
geolocation dph"""
_COLUMNS = _NAMES.split()
_WIDE = ["num_units", "inet_up", "cuda_vers", "driver_version", "dlperf", "verified", "peer"]


def offers(
    *query: str,
    order: Annotated[str, Parameter(name=["--order", "-o"])] = "dph",
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False,
    limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 0,
    common: Common = DEFAULT,
) -> int:
    """List live offers. Sizes are GiB per unit, dph is tokens per unit-hour.

    Parameters
    ----------
    query
        Conditions, like 'num_gpus>=4 gpu_name in [H100,A100]'.
    order
        Fields to sort by, a - behind one for descending: 'dph,num_gpus-'.
    quiet
        Offer ids only.
    limit
        At most so many.
    """
    conditions = parse_query(" ".join(query))
    wanted = parse_order(order)
    rows = ordered(select(common.node().get("/api/offers"), conditions), wanted)
    rows = rows[:limit] if limit > 0 else rows
    if common.as_json:
        write_json({"offers": rows})
    elif quiet:
        write_lines([row["offer"] for row in rows])
    else:
        show(rows, none="no offer fits" if conditions else "no offers heard of yet")
    return 0


def show(rows: list[dict[str, Any]], *, none: str) -> None:
    """Offers as a table."""
    columns = [*_COLUMNS, *_WIDE]
    cells = [[_cell(row, name) for name in columns] for row in rows]
    names = [row["offer"] for row in rows]
    write_table(columns, cells, none=none, wide=len(_WIDE), names=names)


def _cell(row: dict[str, Any], name: str) -> object:
    value = row.get(name)
    if name == "offer":
        return str(value)[:12]
    if name == "gpu_name" and row.get("declared"):
        return f"{value} (declared)"
    return f"{value:g}" if isinstance(value, float) else value
