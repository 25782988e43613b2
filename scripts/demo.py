"""The demo: one real job from end to end, with a provider killed half way.

A local chain, two providers and one requester as three separate processes of `souk up`, joined
only by libp2p. It watches them as a user would, through the requester's own socket, and adds up
the money at the end. Exit 0: the job succeeded elsewhere and not a base unit is missing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import trio
from rich.console import Console
from rich.table import Table

from market.errors import MarketError
from market.units import format_money
from node.adapters.ethereum.chain import EthereumChain, open_chain
from node.adapters.keystore.signer import load_or_create
from node.adapters.oci.base_image import build_base_image
from node.cli.town import MILLION, READY_S, Member, open_town
from node.ports import Account

ROOT = Path(__file__).resolve().parent.parent
JOB_S = 600.0
PACE_S = 0.4  # an epoch's least time, so that a fast machine has something left to kill
KILL_AFTER_S = 8  # metered seconds, and a checkpoint at the requester
console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line of what the demo does."""
    console.print(f"[bold]{time.strftime('%H:%M:%S')}[/bold]  {text}", soft_wrap=True)


class DemoFailed(Exception):  # it is said as a sentence
    """The demo could not show what it is for."""


async def until_offers(node: Member, count: int) -> list[dict[str, Any]]:
    """Wait until the node has heard so many offers."""
    offers: list[dict[str, Any]] = []
    with trio.move_on_after(READY_S):
        async with node.client() as client:
            while len(offers) < count:
                answer = (await client.get("/api/offers")).json()
                offers = answer["offers"] if isinstance(answer, dict) else answer
                await trio.sleep(0.3)
        return offers
    raise DemoFailed(f"{node.name} heard {len(offers)} of {count} offers")


class Watch:
    """Follows the job at the requester: states, output, and the moment to kill."""

    def __init__(self, client: httpx.AsyncClient, job: str) -> None:
        self.client = client
        self.job = job
        self.offset = 0
        self.state = ""
        self.shown: dict[str, Any] = {}

    async def look(self) -> dict[str, Any]:
        """One look; prints what is new."""
        shown: dict[str, Any] = (await self.client.get(f"/api/jobs/{self.job}")).json()
        self.shown = shown.get("job", shown)
        if self.shown["state"] != self.state:
            self.state = self.shown["state"]
            reason = f" ({self.shown['reason']})" if self.shown["reason"] else ""
            say(f"job is [cyan]{self.state}[/cyan]{reason}")
        await self.print_output()
        return self.shown

    async def print_output(self) -> None:
        """The job's output as far as it is here."""
        answer = await self.client.get(f"/api/jobs/{self.job}/log", params={"offset": self.offset})
        text = answer.content.decode(errors="replace")
        end = text.rfind("\n") + 1
        for line in text[:end].splitlines():
            console.print(f"            [dim]{line}[/dim]", soft_wrap=True)
        self.offset += len(text[:end].encode())

    def current(self) -> dict[str, Any] | None:
        """The agreement that runs now."""
        running = [a for a in self.shown["agreements"] if a["phase"] == "running"]
        return running[-1] if running else None


async def run_job(requester: Member, providers: Sequence[Member]) -> Watch:
    """Submit, kill the working provider half way, follow to the end."""
    command = [
        sys.executable, "-m", "node.cli.main", "run", str(ROOT / "examples" / "train.yaml"),
        "--detach", "--yes", "--quiet", "--env", f"PACE={PACE_S}",
        "--config", str(requester.config),
    ]  # fmt: skip
    said = await trio.run_process(command, capture_stdout=True, cwd=ROOT, check=False)
    job = said.stdout.decode().strip()
    if said.returncode != 0 or not job:
        raise DemoFailed("souk run did not take the job")
    say(f"souk run examples/train.yaml  ->  job {job}")
    async with requester.client() as client:
        watch = Watch(client, job)
        with trio.move_on_after(JOB_S):
            await _until_half_way(watch)
            await _kill_the_working(watch, providers)
            while True:
                shown = await watch.look()
                if shown["over"] and shown["settled"]:
                    await watch.print_output()
                    return watch
                await trio.sleep(0.5)
    raise DemoFailed(f"the job is {watch.state} after {JOB_S:.0f} s: {watch.shown.get('reason')}")


async def _until_half_way(watch: Watch) -> None:
    while True:
        shown = await watch.look()
        if shown["over"]:
            raise DemoFailed(f"the job is {shown['state']} too early: {shown['reason']}")
        current = watch.current()
        if current and shown["checkpoint"] and current["metered_s"] >= KILL_AFTER_S:
            return
        await trio.sleep(0.5)


async def _kill_the_working(watch: Watch, providers: Sequence[Member]) -> None:
    current = watch.current()
    assert current is not None
    for node in providers:
        async with node.client() as client:
            status = (await client.get("/api/status")).json()
        if status["peer"] == current["peer"]:
            say(f"[red]kill -9 {node.name}[/red] after {current['metered_s']} metered seconds, "
                f"{current['beats']} heartbeats, {current['promised']} promised")  # fmt: skip
            node.kill(signal.SIGKILL)
            return
    raise DemoFailed("nobody works on the job")


async def receipt(
    watch: Watch, nodes: Sequence[Member], earlier: Sequence[int], chain: EthereumChain
) -> bool:
    """Print who was paid what, and whether it adds up to the last unit."""
    show = lambda amount: format_money(amount, 6)  # noqa: E731
    table = Table("agreement", "ended as", "deposit", "paid", "refunded", "slashed", "to requester",
                  "burned", title="Receipt (amounts in test tokens)")  # fmt: skip
    for row in watch.shown["agreements"]:
        table.add_row(row["id"][:12], row["phase"], row["deposit"], row["paid"], row["refunded"],
                      row["slashed"], row["to_victim"], row["burned"])  # fmt: skip
    Console().print(table)
    for row in watch.shown["agreements"]:
        for name, tx in row["transactions"].items():
            print(f"  {row['id'][:12]} {name:9} {tx}")
    money = Table("wallet", "before", "after", "change", title="Wallets")
    before_all = after_all = 0
    for node, before in zip(nodes, earlier, strict=True):
        after = _sum(await chain.account(node.wallet, node.operator))
        before_all, after_all = before_all + before, after_all + after
        money.add_row(node.name, show(before), show(after), f"{(after - before) / MILLION:+.6f}")
    Console().print(money)
    burned = await chain.burned()
    balanced = before_all == after_all + burned
    sign = "==" if balanced else "!="
    verdict = "balances to the last base unit" if balanced else "DOES NOT BALANCE"
    print(f"before {show(before_all)} {sign} after {show(after_all)} + burned {show(burned)}")
    print(f"the receipt {verdict}")
    return balanced


def _sum(account: Account) -> int:
    return account.tokens + account.free + account.stake + account.thawing + account.locked


async def fetch(watch: Watch, requester: Member, into: Path) -> None:
    """`souk get`: the results, checked by their hashes."""
    command = [
        sys.executable, "-m", "node.cli.main", "get", watch.job, str(into),
        "--config", str(requester.config),
    ]  # fmt: skip
    done = await trio.run_process(command, capture_stdout=True, check=False, cwd=ROOT)
    files = [path for path in sorted(into.rglob("*")) if path.is_file()]  # noqa: ASYNC240
    if done.returncode != 0 or not files:
        raise DemoFailed("the results did not come back")
    for path in files:
        say(f"result {path.name}, {path.stat().st_size} bytes, hash checked")
        if path.name == "metrics.json":
            say(f"  {path.read_text().strip()}")


async def demo(keep: bool, home: Path) -> int:
    """The whole of it; the exit code."""
    instance = f"demo-{home.name[-8:]}".lower().replace("_", "-")
    members = [
        Member("provider-1", home / "provider-1", "18.00", instance),
        Member("provider-2", home / "provider-2", "21.60", instance),
        Member("requester", home / "requester"),
    ]
    requester = members[-1]
    images = requester.data / "images"
    images.mkdir(parents=True)
    say("building a base image from this machine's Python")
    hash_, size = await trio.to_thread.run_sync(build_base_image, images / "base.tar")
    say(f"image sha256:{hash_.hex()[:16]}…, {size / 2**20:.0f} MiB")
    async with open_town(members, say) as town:
        signer = load_or_create(requester.data / "keys")
        async with open_chain(town.devnet.config, signer.operator_key) as chain:
            before = [_sum(await chain.account(one.wallet, one.operator)) for one in members]
            for offer in await until_offers(requester, 2):
                say(f"offer {offer['gpu_name']} x{offer['num_gpus']} at {offer['dph']}/h "
                    f"(declared) from peer {offer['peer'][:12]}")  # fmt: skip
            watch = await run_job(requester, town.providers)
            if watch.state != "SUCCEEDED":
                raise DemoFailed(f"the job is {watch.state}: {watch.shown['reason']}")
            await fetch(watch, requester, home / "results")
            balanced = await receipt(watch, members, before, chain)
            slashed = any(row["phase"] == "slashed" for row in watch.shown["agreements"])
            if keep:
                await _keep(requester)
    if not slashed:
        raise DemoFailed("the silent provider was not slashed")
    return 0 if balanced else 1


async def _keep(requester: Member) -> None:
    say(f"the network stays up, end it with Ctrl-C; web view: {requester.url}")
    say("talk to it from this folder:")
    for command in ("status", "offers", "ps -a", "wallet"):
        print(f"  ./run souk {command} --config {requester.config}")
    await trio.sleep_forever()


def main() -> int:
    """Run the demo; 0 if all went as it should."""
    parser = argparse.ArgumentParser(prog="./run demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the network up at the end")
    given = parser.parse_args()
    if os.geteuid() != 0:
        console.print("the sandbox needs root: sudo ./run demo")
        return 1
    # SIGTERM ends it as Ctrl-C does: by way of every `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home = Path(tempfile.mkdtemp(prefix="gridsouk-demo-", dir="/var/tmp"))
    begun = time.monotonic()
    try:
        code = trio.run(demo, given.keep, home)
    except (KeyboardInterrupt, DemoFailed, MarketError, BaseExceptionGroup) as problem:
        return _explain(problem, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    say(f"done in {time.monotonic() - begun:.0f} s")
    return code


def _explain(problem: BaseException, home: Path) -> int:
    leaves = list(_leaves(problem))
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        say("interrupted; nothing is left behind")
        return 130
    known = [leaf for leaf in leaves if isinstance(leaf, DemoFailed | MarketError)]
    if len(known) != len([leaf for leaf in leaves if not isinstance(leaf, trio.Cancelled)]):
        raise problem
    for leaf in known:
        hint = getattr(leaf, "hint", "")
        console.print(f"[red]the demo failed:[/red] {leaf} {hint}", soft_wrap=True)
    _show_logs(home)
    return 1


def _leaves(problem: BaseException) -> Iterator[BaseException]:
    if isinstance(problem, BaseExceptionGroup):
        for inner in problem.exceptions:
            yield from _leaves(inner)
    else:
        yield problem


def _show_logs(home: Path) -> None:
    for path in sorted(home.glob("*/node.log")):
        console.print(f"--- {path.parent.name}")
        console.print(path.read_text(errors="replace")[-3000:], markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
