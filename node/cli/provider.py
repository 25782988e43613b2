"""Provider: the commands of who sells, by name, so that each loads only what it needs."""

from __future__ import annotations

from typing import Final

from cyclopts import App

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "bench": ("node.cli.bench:bench", "Measure the units and sign what was found."),
    "doctor": ("node.cli.doctor:doctor", "Say whether this machine may run strangers' code."),
}

provider = App(name="provider", help="Sell this machine's units.")
for _name, (_target, _summary) in COMMANDS.items():
    provider.command(_target, name=_name, help=_summary)
