"""Devnet: `souk devnet`, a market of one's own to try things in. Play money; gone with Ctrl-C."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from market.errors import RefusedError
from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_facts, write_json

if TYPE_CHECKING:
    from node.cli.town import Town

PROVIDERS_MAX: Final = 8  # each is a process of 150 MB


def devnet(
    *,
    providers: Annotated[int | None, Parameter(validator=Number(gte=0, lte=PROVIDERS_MAX))] = None,
    common: Common = DEFAULT,
) -> int:
    """Run a local chain, providers and a requester on this machine until Ctrl-C.

    Prints what to set so that every other command talks to its requester.

    Parameters
    ----------
    providers
        How many sell a CPU unit; they need root. Default: 2 as root, else none.
    """
    import signal

    import trio

    # Both end it by way of every `finally`, whatever a shell in the background made of Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    count = (2 if os.geteuid() == 0 else 0) if providers is None else providers
    if count and os.geteuid() != 0:
        raise RefusedError("providers need root", hint="sudo souk devnet, or --providers 0")
    with tempfile.TemporaryDirectory(prefix="gridsouk-devnet-", dir="/var/tmp") as home:
        try:
            trio.run(_live, Path(home), count, common.as_json)
        except KeyboardInterrupt:
            say("stopped; nothing is left behind")
    return 0


async def _live(home: Path, count: int, as_json: bool) -> None:
    import trio

    from node.cli.town import Member, open_town

    instance = f"devnet-{os.getpid()}"
    members = [
        Member(f"provider-{n}", home / f"provider-{n}", f"{0.20 + 0.05 * n:.2f}", instance)
        for n in range(1, count + 1)
    ]
    members.append(Member("requester", home / "requester"))
    async with open_town(members, say) as town:
        _tell(town, as_json)
        await trio.sleep_forever()


def _tell(town: Town, as_json: bool) -> None:
    facts: dict[str, object] = {
        "rpc": town.devnet.url,
        "chain id": town.devnet.chain_id,
        "escrow": f"0x{town.devnet.escrow.hex()}",
        "token": f"0x{town.devnet.token.hex()}",
        "bootstrap": town.bootstrap,
    }
    for index, member in enumerate(town.members):
        facts[f"{member.name} config"] = member.config
        facts[f"{member.name} web view"] = member.url
        facts[f"{member.name} wallet key"] = f"0x{town.devnet.keys[index + 1].hex()}"
    for number in (1, 2):  # for whoever wants to join with a node of his own
        facts[f"spare wallet key {number}"] = f"0x{town.devnet.keys[-number].hex()}"
    if as_json:
        write_json(
            {"devnet": {name.replace(" ", "_"): str(value) for name, value in facts.items()}}
        )
        return
    write_facts(facts)
    say("")
    say("in another terminal:")
    say(f"  export GRIDSOUK_CONFIG={town.requester.config}")
    say("  souk offers        souk image build base        souk run examples/train.yaml")
    say("The keys are anvil's public test keys: good for a browser wallet here, for nothing else.")
    say("Ctrl-C ends all of it.")
