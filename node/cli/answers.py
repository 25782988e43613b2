"""Answers: the flags of `souk provider init`, each of which saves a question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Texts = Annotated[tuple[str, ...], Parameter(negative="")]


@Parameter(name="*")
@dataclass(frozen=True)
class Answers:
    """What would be asked, said by flags."""

    network: str | None = None
    "devnet, sepolia, base-sepolia or custom."
    rpc: Texts = ()
    "URL of the chain's RPC. May be repeated."
    escrow: str | None = None
    "The escrow's address, where the network has no usual one."
    token: str | None = None
    "The token's address, likewise."
    bootstrap: Texts = ()
    "Multiaddress of a peer to start from. May be repeated."
    listen: Texts = ()
    "Multiaddress to listen on. May be repeated."
    wallet: str | None = None
    "new, a file with a key to take over, or the 0x address of a wallet that is elsewhere."
    source_password_file: Path | None = None
    "File with the password of the keystore that is taken over."
    price: str | None = None
    "Whole tokens per unit-hour; the market's median for such units is proposed."
    geolocation: str | None = None
    "Where the machine is, like DE."
    allowance: str | None = None
    "How much the node may lock in all, in whole tokens; 100 times the stake is proposed."
    gas: str = "0.05"
    "What the node's own key is to have of the chain's coin."


NO_ANSWERS = Answers()
