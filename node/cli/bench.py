"""Bench: the commands that measure our own units and challenge those of others."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from market.errors import MarketError
from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_json, write_table
from node.client.http import Node

LIMIT_S: Final = 3600.0
LOOK_S: Final = 1.0


def bench(*, common: Common = DEFAULT) -> int:
    """Measure this node's units and sign a certificate for each, which its offers then carry.

    Takes all of a unit for some seconds; nothing is measured while one is rented.
    """
    node = common.node()
    done = waiting(node, lambda: node.post("/api/certificates/measure", {}, timeout_s=LIMIT_S))
    if common.as_json:
        write_json(done)
        return 0
    columns = ("unit", "name", "dlperf", "fp32 GF/s", "fp16 GF/s", "int8 GO/s", "memory MB/s",
               "pcie MB/s", "disk MB/s", "down Mbit/s", "up Mbit/s", "by", "until")  # fmt: skip
    rows = [
        (row["unit"], row["gpu_name"], row["dlperf"], row["fp32_gflops"],
         row["fp16_gflops"] or "-", row["int8_gops"] or "-", row["memory_mbps"],
         row["pcie_mbps"] or "-", row["disk_mbps"], _rate(row["inet_down"]), _rate(row["inet_up"]),
         row["library"],
         time.strftime("%Y-%m-%d", time.localtime(row["expires"])))
        for row in done["certificates"]
    ]  # fmt: skip
    write_table(columns, rows, none="this node has no units")
    return 0


def challenge(name: str, *, common: Common = DEFAULT) -> int:
    """Challenge a provider's certificate: a seeded product, timed and checked.

    Parameters
    ----------
    name
        The beginning of a peer's or an offer's id, as `souk offers` shows them.
    """
    node = common.node()
    body = {"name": name}
    done = node.post("/api/certificates/challenge", body, timeout_s=LIMIT_S)
    if common.as_json:
        write_json(done)
    else:
        columns = ("unit", "uuid", "right", "in time", "took s", "allowed s", "size", "standing")
        rows = [
            (row["unit"], row["uuid"], "yes" if row["right"] else "NO",
             "yes" if row["in_time"] else "NO", f"{row['seconds']:.2f}",
             f"{row['allowed_s']:.2f}", row["challenge_size"], row["standing"])
            for row in done["challenges"]
        ]  # fmt: skip
        write_table(columns, rows, none="nothing was challenged")
    return 0 if all(row["right"] and row["in_time"] for row in done["challenges"]) else 1


def _rate(mbits: float) -> str:
    return f"{mbits:.0f}" if mbits else "-"


def waiting(node: Node, ask: Any) -> Any:
    """The answer to a question that takes long; says what the node does meanwhile."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(ask())
        except MarketError as problem:
            found.append(problem)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    told = ""
    while thread.is_alive():
        thread.join(LOOK_S)
        doing = node.get("/api/certificates")["doing"] if thread.is_alive() else ""
        if doing and doing != told:
            told = doing
            say(doing)
    if isinstance(found[0], MarketError):
        raise found[0]
    return found[0]
