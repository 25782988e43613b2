"""Reports: what the node says about itself."""

from __future__ import annotations

from typing import Any

from node.cli.options import DEFAULT, Common
from node.cli.output import write_facts, write_json, write_table


def status(*, common: Common = DEFAULT) -> int:
    """Show one screen about the node."""
    found = common.node().get("/api/status")
    if common.as_json:
        write_json({"status": found})
        return 0
    units = found["units"]
    write_facts(
        {
            "peer": found["peer"],
            "network": found["network"],
            "web view": found.get("url"),
            "addresses": " ".join(found["addresses"]) or None,
            "reachable": reach_text(found["reach"]),
            "relays for others": "yes" if found["reach"]["relaying"] else "no",
            "peers": found["peers"],
            "offers known": found["offers_known"],
            "selling": "yes" if found["selling"] else "no",
            "units": f"{len(units)}, {sum(unit['busy'] for unit in units)} busy",
            "live jobs": found["jobs"],
            "live agreements": found["agreements"],
            "block": found["block"],
            "waiting for": found["waiting_for"] or None,
        }
    )
    return 0


def reach_text(reach: dict[str, Any]) -> str:
    """Whether others can dial the node, in words."""
    if reach["reachable"] is None:
        return "not yet known"
    if reach["reachable"]:
        return "yes"
    relays = " and ".join(relay[:16] for relay in reach["relays"])
    return f"through relay {relays}" if relays else "no, and no relay found yet"


def peers(*, common: Common = DEFAULT) -> int:
    """List who is connected."""
    found = common.node().get("/api/peers")
    if common.as_json:
        write_json({"peers": found})
        return 0
    rows = [
        (
            row["peer"][:16],
            ("out" if row["outbound"] else "in") + (", relayed" if row["relayed"] else ""),
            None if row["rtt_ms"] is None else f"{row['rtt_ms']:.1f}",
            row["address"],
        )
        for row in found
    ]
    write_table(("peer", "way", "rtt_ms", "address"), rows, none="no peers yet")
    return 0
