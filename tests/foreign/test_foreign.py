"""The market seen from outside: a peer that is not ours trades with one that is, for real money."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from node.adapters.ethereum.chain import open_chain
from node.adapters.keystore.signer import load_or_create
from node.cli.town import DEPOSIT, STAKE, Member, Town, open_town

pytestmark = [pytest.mark.slow, pytest.mark.chain, pytest.mark.sandbox]

HERE = Path(__file__).resolve().parent
PATIENCE_S = 120.0  # the machine may be busy with other things
PRICE = 3_600_000  # base units an hour: a thousand a second
JOB_S = 3

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
        ["node", "--test", "--test-reporter", "tap", str(HERE)],
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


def _given(town: Town, home: Path, **more: Any) -> str:
    """What the peer is told: a file."""
    devnet, path = town.devnet, home / "town.json"
    facts = {
        "bootstrap": town.bootstrap,
        "network": f"devnet-{devnet.chain_id}",
        "rpc": devnet.url,
        "escrow": f"0x{devnet.escrow.hex()}",
        "token": f"0x{devnet.token.hex()}",
        "wallet": f"0x{devnet.keys[5].hex()}",
        "busybox": shutil.which("busybox"),
        **more,
    }
    path.write_text(json.dumps(facts))
    return str(path)


async def _peer(*arguments: str) -> list[dict[str, Any]]:
    """Run the peer to its end; what it said, a line each."""
    command = ["node", str(HERE / "peer.mjs"), *arguments]
    with trio.fail_after(PATIENCE_S):
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False
        )
    said = done.stdout.decode()
    assert done.returncode == 0, f"{said}\n{done.stderr.decode()[-3000:]}"
    return [json.loads(line) for line in said.splitlines()]


@able
async def test_it_rents_a_unit_of_ours_and_pays_for_it(town: Town, tmp_path: Path) -> None:
    (ours,) = town.members
    signer = load_or_create(ours.data / "keys")
    command = f"echo from the job; mkdir -p /out; seq 5 > /out/n; sleep {JOB_S}"
    said = await _peer("rent", _given(town, tmp_path), command)
    end, beats = said[-1], [fact for fact in said if "beat" in fact]

    assert (end["exit_code"], end["log"]) == (0, "from the job\n")
    assert end["results"] == {"/out/n": "1\n2\n3\n4\n5\n"}
    assert beats[-1]["work"] == "exited"
    numbers = [fact["beat"] for fact in beats]
    assert numbers == sorted(numbers)
    vouchers = [fact for fact in said if "voucher" in fact]
    assert vouchers[-1] == {"voucher": end["promised"], "last": True}

    paid, refunded = int(end["paid"]), int(end["refunded"])
    assert paid == end["promised"] == PRICE * beats[-1]["metered_s"] // 3600 > 0
    async with open_chain(town.devnet.config, signer.operator_key) as chain:
        seller = await chain.account(ours.wallet, ours.operator)
        buyer = await chain.account(bytes.fromhex(end["requester"]), bytes.fromhex(end["operator"]))
    assert (seller.free, seller.stake, seller.locked) == (DEPOSIT - STAKE + paid, STAKE, 0)
    assert buyer.free == 50_000_000 - paid
    assert paid + refunded == PRICE * 60 // 3600
    async with ours.client() as client:
        (row,) = (await client.get("/api/agreements")).json()
    assert row["phase"] == "settled", row
