"""Whereabouts: the network, chain, escrow and peers a node is to use, checked on the chain."""

from __future__ import annotations

from typing import Any

from market.errors import MarketError, SpecError
from node.cli import settingsfile
from node.cli.answers import Answers
from node.cli.options import Common
from node.cli.readers import multiaddrs, read_address, url
from node.cli.settings import NETWORKS, Settings, config_path
from node.cli.sitting import BEFORE, DONE, Sitting


def find_market(sitting: Sitting, answers: Answers, common: Common) -> dict[str, object]:
    """The top-level settings that say where the market is; checked against the chain."""
    before = common.settings()
    known = settingsfile.keys_in(common.config or config_path())
    name = before.network
    if answers.network is not None or "network" not in known:
        name = sitting.ask("network", "--network", answers.network, before.network, _known_network)
    chosen: dict[str, object] = {"network": name}
    if answers.rpc:
        chosen["rpc"] = [_checked("--rpc", one, url) for one in answers.rpc]
    if answers.listen:
        chosen["listen"] = list(_checked("--listen", answers.listen, multiaddrs))
    wrong = False
    while True:
        settings = common.settings(**chosen)
        for key in ("rpc", "escrow", "token"):
            if wrong or not getattr(settings, key) or _given(answers, key):
                _ask_key(sitting, answers, settings, key, chosen)
        settings = common.settings(**chosen)
        try:
            sitting.note(_escrow_words(settings))
            break
        except MarketError as problem:
            if not sitting.asks or any(_given(answers, k) for k in ("rpc", "escrow", "token")):
                raise
            sitting.note(f"{problem} ({problem.hint})")
            wrong = True
    if answers.bootstrap or "bootstrap" not in known:
        _bootstrap(sitting, answers, chosen)
    after = common.settings(**chosen)
    same = known and all(getattr(after, key) == getattr(before, key) for key in chosen)
    sitting.end(f"{name}, chain {settings.chain_id}", BEFORE if same else DONE)
    return chosen


def _given(answers: Answers, key: str) -> bool:
    return bool(getattr(answers, key)) and key != "rpc"


def _ask_key(
    sitting: Sitting, answers: Answers, settings: Settings, key: str, chosen: dict[str, object]
) -> None:
    """One of rpc, escrow, token."""
    now = getattr(settings, key)
    if key == "rpc":
        chosen[key] = [sitting.ask("RPC URL", "--rpc", None, now[0] if now else None, url)]
        return
    default = f"0x{now.hex()}" if now else None
    chosen[key] = sitting.ask(
        f"{key}'s address", f"--{key}", getattr(answers, key), default, read_address
    )


def _escrow_words(settings: Settings) -> str:
    """What stands on the chain. Raises ChainError for an RPC or an escrow that will not do."""
    import trio

    from node.adapters.ethereum.purse import open_purse
    from node.cli.chain import chain_config

    async def ask() -> tuple[str, int]:
        async with open_purse(chain_config(settings), None) as purse:
            return purse.info.symbol, purse.info.decimals

    symbol, decimals = trio.run(ask)
    if decimals != settings.decimals:
        raise SpecError(
            f"decimals: {symbol} has {decimals}, not {settings.decimals}",
            hint=f"write decimals = {decimals} into the settings",
        )
    escrow = (settings.escrow or b"").hex()
    return f"{settings.rpc[0]} answers; the escrow 0x{escrow} is there, and {symbol}"


def _bootstrap(sitting: Sitting, answers: Answers, chosen: dict[str, object]) -> None:
    if answers.bootstrap:
        chosen["bootstrap"] = list(_checked("--bootstrap", answers.bootstrap, multiaddrs))
        return
    said = sitting.ask(
        "a peer to start from (multiaddress)", "--bootstrap", None, "",
        lambda text: multiaddrs(text) if text else None,
    )  # fmt: skip
    chosen["bootstrap"] = [said] if said else []
    if not said:
        sitting.note("no peer to start from: nobody hears this node until one finds it")


def _checked(flag: str, value: Any, read: Any) -> Any:
    try:
        return read(value)
    except SpecError as problem:
        raise SpecError(f"{flag}: {problem}", hint=problem.hint) from None


def _known_network(text: str) -> None:
    if text not in NETWORKS:
        raise SpecError(f"{text!r} is none of {', '.join(NETWORKS)}")
