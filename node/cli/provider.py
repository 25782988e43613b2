"""Provider: the commands of who sells, by name, so that each loads only what it needs."""

from __future__ import annotations

from typing import Final

from cyclopts import App

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "init": ("node.cli.listing:init", "From nothing to a listed machine, step by step."),
    "bench": ("node.cli.bench:bench", "Measure the units and sign what was found."),
    "doctor": ("node.cli.doctor:doctor", "Say whether this machine may run strangers' code."),
    "status": ("node.cli.sellers:status", "Show what is sold, to whom, and who waits."),
    "quotes": ("node.cli.sellers:quotes", "List quotes, and why each was won or lost."),
    "price": ("node.cli.sellers:price", "Change what a unit-hour costs, without a restart."),
    "pause": ("node.cli.sellers:pause", "Quote nothing until resume; what runs goes on."),
    "resume": ("node.cli.sellers:resume", "Sell again."),
    "drain": ("node.cli.sellers:drain", "Quote nothing, and say when the last job has ended."),
    "stake": ("node.cli.money:stake", "Money that backs what this wallet sells."),
    "earnings": ("node.cli.books:earnings", "What agreements brought in, from the chain."),
    "withdraw": ("node.cli.money:withdraw", "Take free money out of the escrow."),
}

provider = App(name="provider", help="Sell this machine's units.")
for _name, (_target, _summary) in COMMANDS.items():
    provider.command(_target, name=_name, help=_summary)
