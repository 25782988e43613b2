"""The market seen from outside: a peer that is not ours trades with one that is, for real money."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from node.adapters.ethereum.chain import open_chain
from node.adapters.keystore.signer import load_or_create
from node.cli.town import DEPOSIT, STAKE, Member, Town, open_town

pytestmark = [pytest.mark.slow, pytest.mark.chain, pytest.mark.sandbox]

HERE = Path(__file__).resolve().parent
PATIENCE_S = 180.0  # the machine may be busy with other things
PRICE = 3_600_000  # base units an hour: a thousand a second
FAR_PRICE = 7_200_000  # the peer's own: more than it pays itself
FUNDS = 50_000_000  # what it deposits as a requester
JOB_S = 2
JOB = """
name: far
image: ./busybox.tar
resources: {accelerators: "CPU:1", memory: 128MB, disk_size: 64MB}
outputs: [/out]
run: echo hello from far > /out/word
max_hourly_cost: 20
max_duration: 1m
"""

MISSING = [name for name in ("node", "runc", "mkfs.ext4", "busybox") if not shutil.which(name)]
if not (HERE / "node_modules").exists():
    MISSING.append("js-libp2p (./run setup)")
if "ANVIL" not in os.environ and shutil.which("anvil") is None:
    MISSING.append("anvil (./run setup)")
able = pytest.mark.skipif(
    os.environ.get("CI") != "true" and (os.geteuid() != 0 or bool(MISSING)),
    reason=f"needs root, and {', '.join(MISSING) or 'nothing else'}",
)


def test_the_peer_keeps_to_the_golden_vectors() -> None:
    """Its own test: the same file that our codec is held to."""
    if not (HERE / "node_modules").exists() and os.environ.get("CI") != "true":
        pytest.skip("needs js-libp2p (./run setup)")
    done = subprocess.run(
        ["node", "--test", "--test-reporter", "tap", str(HERE / "golden.test.mjs")],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    counts = dict(re.findall(r"^# (tests|pass|fail|skipped) (\d+)$", done.stdout, flags=re.M))
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(counts["tests"]) >= 5
    assert counts["pass"] == counts["tests"]


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    """One provider of ours, and the chain."""
    sells = Member("provider-1", tmp_path / "provider-1", "3.60", f"foreign{os.getpid()}")
    async with open_town([sells], lambda _: None) as town:
        yield town


def _given(town: Town, path: Path, wallet: int) -> str:
    """What the peer is told, in a file: where the market is, and one of the test keys."""
    devnet = town.devnet
    facts = {
        "bootstrap": town.bootstrap,
        "network": f"devnet-{devnet.chain_id}",
        "rpc": devnet.url,
        "escrow": f"0x{devnet.escrow.hex()}",
        "token": f"0x{devnet.token.hex()}",
        "wallet": f"0x{devnet.keys[wallet].hex()}",
        "busybox": shutil.which("busybox"),
    }
    path.write_text(json.dumps(facts))
    return str(path)


async def _peer(*arguments: str) -> list[dict[str, Any]]:
    """Run the peer to its end; what it said, a line each."""
    command = ["node", str(HERE / "peer.mjs"), *arguments]
    said, code = bytearray(), -1
    with trio.move_on_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            start = partial(
                trio.run_process, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                check=False,
            )  # fmt: skip
            process = await nursery.start(start)
            async for part in process.stdout:
                said += part
            code = await process.wait()
    assert code == 0, f"{arguments[0]} ended with {code}:\n{said.decode()[-5000:]}"
    return [json.loads(line) for line in said.splitlines()]


@able
async def test_it_buys_of_us_and_sells_to_us(town: Town, tmp_path: Path) -> None:
    """Both at once in one market: it rents our unit for its job, and our job runs at its place."""
    results: dict[str, Any] = {}

    async def keep(name: str, act: Callable[[Town, Path], Awaitable[Any]]) -> None:
        results[name] = await act(town, tmp_path)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep, "bought", _buys)
        nursery.start_soon(keep, "sold", _sells)
        nursery.start_soon(keep, "ours", _we_buy)
    bought, sold, ours = results["bought"], results["sold"], results["ours"]

    end, beats = bought[-1], [fact for fact in bought if "beat" in fact]
    assert (end["exit_code"], end["log"]) == (0, "from the job\n")
    assert end["results"] == {"/out/n": "1\n2\n3\n4\n5\n"}
    numbers = [fact["beat"] for fact in beats]
    assert numbers == sorted(numbers)
    vouchers = [fact for fact in bought if "voucher" in fact]
    assert vouchers[-1] == {"voucher": end["promised"], "last": True}
    spent, refunded = int(end["paid"]), int(end["refunded"])
    assert spent == PRICE * beats[-1]["metered_s"] // 3600 > 0
    assert spent + refunded == PRICE * 60 // 3600, "the deposit, to the last base unit"

    assert ours == b"hello from far\n"
    earned = int(sold[-1]["paid"])
    assert earned > 0
    assert earned + int(sold[-1]["refunded"]) == FAR_PRICE * 60 // 3600

    (us,) = town.members
    signer = load_or_create(us.data / "keys")
    async with open_chain(town.devnet.config, signer.operator_key) as chain:
        we = await chain.account(us.wallet, us.operator)
        they = await chain.account(*(bytes.fromhex(end[who]) for who in ("requester", "operator")))
    assert (we.free, we.stake, we.locked) == (DEPOSIT - STAKE + spent - earned, STAKE, 0)
    assert they.free == FUNDS - spent


async def _buys(town: Town, home: Path) -> list[dict[str, Any]]:
    command = f"echo from the job; mkdir -p /out; seq 5 > /out/n; sleep {JOB_S}"
    return await _peer("rent", _given(town, home / "buys.json", 5), command)


async def _sells(town: Town, home: Path) -> list[dict[str, Any]]:
    return await _peer("sell", _given(town, home / "sells.json", 6), str(FAR_PRICE))


async def _we_buy(town: Town, home: Path) -> bytes:
    """A job of our node, which does not answer itself; -> its result, fetched by `souk get`."""
    (ours,) = town.members
    await _peer("image", _given(town, home / "image.json", 7), str(home / "busybox.tar"))
    (home / "job.yaml").write_text(JOB)
    async with ours.client() as client:
        with trio.fail_after(PATIENCE_S):
            while not any(o["dph"] == "7.2" for o in (await client.get("/api/offers")).json()):
                await trio.sleep(0.2)
    said = await _souk(ours, "run", str(home / "job.yaml"), "--yes")
    assert "SUCCEEDED" in said, said
    job = said.split()[-1]  # "fetch 1 result(s) with: souk get ..."
    await _souk(ours, "get", job, str(home / "got"))
    return (home / "got" / "out" / "word").read_bytes()


async def _souk(member: Member, *arguments: str) -> str:
    command = [sys.executable, "-m", "node.cli.main", *arguments, "--config", str(member.config)]
    with trio.fail_after(PATIENCE_S):
        done = await trio.run_process(
            command, capture_stdout=True, stderr=subprocess.STDOUT, check=False,
            cwd=HERE.parents[1],
        )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode()[-3000:]
    return done.stdout.decode()
