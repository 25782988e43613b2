"""Outlive: a provider's whole node, killed with -9 again and again while it runs a job.

Real processes of `souk up`, a real chain, a real container. The requester and the chain go on; the
rules are those of a public network, under which a provider may be silent for half a minute.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import trio

from node.adapters.ethereum.chain import open_chain
from node.adapters.keystore.signer import load_or_create
from node.adapters.oci.base_image import build_base_image
from node.cli.town import MILLION, Member, open_town
from node.ports import Account
from tests.services.stage import ROOT, souk

PRICE: Final = "36.00"  # an hour; a second is then 0.01
PER_SECOND: Final = MILLION // 100
STARTING_S: Final = 4.0  # a kill while it starts comes within so long
WORKING_S: Final = 2.0  # ... while it works, within so long after it answers
HEARD_S: Final = 12.0  # silent for longer, it is left alone: half a minute would be its end
PATIENCE_S: Final = 240.0
JOB: Final = """
name: outlives
image: base
run: |
  read up rest < /proc/uptime
  echo start $up
  while [ ! -e /out/end ]; do sleep 0.05; done
  read up rest < /proc/uptime
  echo end $up
resources: {accelerators: "CPU:1", cpus: 1, memory: 128MB, disk_size: 64MB}
outputs: [/out/none]
max_hourly_cost: "36.00"
max_duration: 30m
"""


@dataclass(frozen=True)
class Outlived:
    """What became of the job and its money; times in seconds, money in base units."""

    kills: int
    while_starting: int
    state: str
    attempts: int
    starts: int  # how often the job itself began
    ran_s: float  # by the job's own clock
    metered_s: int
    paid: int  # by the escrow
    earned: int  # what the provider's wallet has more of
    slashed: int
    story: str  # for people, when it went wrong


async def outlive(home: Path, kills: int, seed: int, say: Callable[[str], None]) -> Outlived:
    """A job under a provider's node that is killed so often, at moments that `seed` draws."""
    name = f"outlive-{home.name[-8:]}".lower().replace("_", "-")
    seller = Member("provider-1", home / "provider-1", PRICE, name, network="custom")
    buyer = Member("requester", home / "requester", network="custom")
    images = buyer.data / "images"
    images.mkdir(parents=True)
    await trio.to_thread.run_sync(build_base_image, images / "base.tar", ())
    (home / "job.yaml").write_text(JOB)
    async with open_town([seller, buyer], say) as town:
        await _keep_port(seller)
        key = load_or_create(buyer.data / "keys").operator_key
        async with open_chain(town.devnet.config, key) as chain:
            before = _sum(await chain.account(seller.wallet, seller.operator))
            done = await _command(buyer, "run", str(home / "job.yaml"), "-y", "-q", "--detach")
            job = done.stdout.decode().strip()
            await _until(buyer, job, lambda shown: "start" in shown["log"])
            starting = await _kill(seller, buyer, job, kills, random.Random(seed))
            say(f"killed {kills} times, {starting} of them while it started")
            await _heard(seller, buyer, job)
            await _command(buyer, "exec", job, "--", "sh", "-c", ": > /out/end")
            shown = await _until(buyer, job, _is_settled)
            after = _sum(await chain.account(seller.wallet, seller.operator))
            burned = await chain.burned()
    clock = [line.split() for line in shown["log"].splitlines()]
    begun = [float(up) for word, up in clock if word == "start"]
    ended = [float(up) for word, up in clock if word == "end"]
    rows = shown["agreements"]
    return Outlived(
        kills=kills,
        while_starting=starting,
        state=shown["state"],
        attempts=shown["attempts"],
        starts=len(begun),
        ran_s=ended[-1] - begun[0],
        metered_s=sum(row["metered_s"] for row in rows),
        paid=sum(_units(row["paid"]) for row in rows),
        earned=after - before,
        slashed=burned + sum(_units(row["slashed"]) for row in rows),
        story=json.dumps(shown, indent=1),
    )


def _is_settled(shown: dict[str, Any]) -> bool:
    """The job is over, and the chain has said so of all its agreements."""
    ended = all(row["phase"] in ("settled", "slashed", "void") for row in shown["agreements"])
    return bool(shown["over"] and ended)


async def _keep_port(node: Member) -> None:
    """From its next start on it listens where it does now, as a machine of somebody's would."""
    async with node.client() as client:
        address = (await client.get("/api/status")).json()["addresses"][0].partition("/p2p/")[0]
    text = node.config.read_text()
    node.config.write_text(text.replace("/ip4/127.0.0.1/tcp/0", address))


async def _kill(node: Member, buyer: Member, job: str, kills: int, rng: random.Random) -> int:
    """Every other time while it starts; returns how often it did not answer yet."""
    starting = 0
    for number in range(kills):
        if number % 2:
            await trio.sleep(rng.uniform(0.0, STARTING_S))
            starting += not await _answers(node)
        else:
            await _heard(node, buyer, job, HEARD_S)
            await trio.sleep(rng.uniform(0.0, WORKING_S))
        node.kill(signal.SIGKILL)
        node.start()
    return starting


async def _heard(node: Member, buyer: Member, job: str, within_s: float = 0.0) -> None:
    """Until it is up, and the requester has heard of the job since then or shortly before."""
    await node.until_ready()
    since = time.time() - within_s
    await _until(buyer, job, lambda shown: (shown["last_heard"] or 0) > since or shown["over"])


async def _answers(node: Member) -> bool:
    with trio.move_on_after(0.2), contextlib.suppress(httpx.HTTPError):
        async with node.client() as client:
            return (await client.get("/api/status")).is_success
    return False


async def _until(
    buyer: Member, job: str, holds: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    with trio.move_on_after(PATIENCE_S):
        async with buyer.client() as client:
            while True:
                shown = (await client.get(f"/api/jobs/{job}")).json()
                shown["log"] = (await client.get(f"/api/jobs/{job}/log")).text
                if holds(shown):
                    return shown
                await trio.sleep(0.2)
    raise AssertionError(json.dumps(shown, indent=1))


async def _command(buyer: Member, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [*souk(words[0]), "--config", str(buyer.config), *words[1:]]
    done = await trio.run_process(
        command, capture_stdout=True, capture_stderr=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def _sum(account: Account) -> int:
    return account.tokens + account.free + account.stake + account.thawing + account.locked


def _units(text: str) -> int:
    whole, _, part = text.partition(".")
    return int(whole) * MILLION + int(part.ljust(6, "0")[:6] or 0)
