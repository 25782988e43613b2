"""Transactions on a real chain, over an endpoint that loses them, over crashes and reorgs."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from market.errors import ChainError
from node.adapters.ethereum.answers import number
from node.adapters.ethereum.fees import Fees, raised, wanted
from node.adapters.ethereum.outbox import open_outbox
from node.adapters.ethereum.pending import Call as Step
from node.adapters.ethereum.pending import Pace
from node.adapters.ethereum.rpc import Rpc
from node.adapters.ethereum.sender import Sender
from tests.adapters.ethereum.proxy import Call, Forward, Proxy, Reply, Rule, result
from tests.adapters.ethereum.stage import Stage

CAP = 200_000_000_000
QUICK = Pace(look_s=0.05, resend_s=0.2, stuck_s=0.6, lost_s=2.0, give_up_s=15.0)
HERE = b"\x77" * 20
_numbers = itertools.count(1)


def step() -> Step:
    """A call that does nothing, unlike any other."""
    return Step(HERE, f"0x{next(_numbers):08x}")


@asynccontextmanager
async def open_sender(
    stage: Stage, url: str, path: Path | None = None, pace: Pace = QUICK, cap: int = CAP
) -> AsyncIterator[Sender]:
    """A sender that is looked after, with the key of the eighth test wallet."""
    async with Rpc((url,)) as rpc, open_outbox(path) as outbox:
        sender = Sender(rpc, stage.devnet.keys[8], stage.devnet.chain_id, cap, outbox, pace)
        await sender.load()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.run)
            yield sender
            nursery.cancel_scope.cancel()


async def used(rpc: Rpc, sender: Sender) -> int:
    """How many transactions of the sender are in blocks."""
    return await rpc.ask("eth_getTransactionCount", sender.address, "latest", read=number)


async def until_used(rpc: Rpc, sender: Sender, count: int) -> None:
    with trio.fail_after(10):
        while await used(rpc, sender) < count:
            await trio.sleep(0.05)


def losing(count: float, *, answers: bool = False) -> Rule:
    """Takes the first `count` transactions and loses them; with `answers`, loses the answers."""
    left = count

    async def rule(call: Call, forward: Forward) -> Reply | None:
        nonlocal left
        if call["method"] != "eth_sendRawTransaction" or left <= 0:
            return None
        left -= 1
        if not answers:
            return result(call, "0x" + "ab" * 32)
        await forward()
        return Reply(None)

    return rule


async def test_a_lost_transaction_is_sent_again(stage: Stage, rpc: Rpc, proxy: Proxy) -> None:
    proxy.rules.append(losing(2))
    async with open_sender(stage, proxy.url) as sender:
        begun = await used(rpc, sender)
        assert (await sender.send(step())).ok
        assert await used(rpc, sender) == begun + 1
        assert sender.statistics()["resent"] == 2


async def test_a_lost_answer_does_not_send_twice(stage: Stage, rpc: Rpc, proxy: Proxy) -> None:
    proxy.rules.append(losing(1, answers=True))
    async with open_sender(stage, proxy.url) as sender:
        begun = await used(rpc, sender)
        assert (await sender.send(step())).ok
        assert await used(rpc, sender) == begun + 1


async def test_many_at_once_over_a_bad_line(stage: Stage, rpc: Rpc, proxy: Proxy) -> None:
    rng = random.Random(4)

    async def bad_line(call: Call, forward: Forward) -> Reply | None:
        if rng.random() < 0.5:
            await trio.sleep(rng.random() * 0.02)  # so answers overtake each other
        if call["method"] != "eth_sendRawTransaction" or rng.random() > 0.3:
            return None
        return result(call, "0x" + "ab" * 32) if rng.random() < 0.5 else Reply(None)

    proxy.rules.append(bad_line)
    async with open_sender(stage, proxy.url) as sender:
        begun = await used(rpc, sender)
        receipts = []

        async def one() -> None:
            receipts.append(await sender.send(step()))

        async with trio.open_nursery() as nursery:
            for _ in range(15):
                nursery.start_soon(one)
        assert all(receipt.ok for receipt in receipts)
        assert len({receipt.tx for receipt in receipts}) == 15
        assert await used(rpc, sender) == begun + 15


async def test_the_same_order_at_once_is_sent_once(stage: Stage, rpc: Rpc) -> None:
    async with open_sender(stage, stage.devnet.url) as sender:
        begun, order, hashes = await used(rpc, sender), step(), set()

        async def one() -> None:
            hashes.add((await sender.send(order, once=True)).tx)

        await rpc.ask("evm_setAutomine", False)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one)
            with trio.fail_after(5):
                while not sender.unmined():
                    await trio.sleep(0.01)
            await trio.sleep(0.2)
            await rpc.ask("evm_setAutomine", True)
            await rpc.ask("evm_mine")
        assert len(hashes) == 1
        assert await used(rpc, sender) == begun + 1


async def test_what_is_stuck_is_replaced_by_more_than_an_eighth(stage: Stage, rpc: Rpc) -> None:
    await rpc.ask("evm_setAutomine", False)
    try:
        async with open_sender(stage, stage.devnet.url) as sender, trio.open_nursery() as nursery:
            begun, receipts = await used(rpc, sender), []

            async def one() -> None:
                receipts.append(await sender.send(step()))

            nursery.start_soon(one)
            with trio.fail_after(10):
                while sender.statistics()["raised"] < 2:
                    await trio.sleep(0.05)
            (stuck,) = sender.unmined()
            first, second, third = (Fees(sent.most, sent.tip) for sent in stuck.tries[:3])
            for before, after in ((first, second), (second, third)):
                assert after.most * 8 >= before.most * 9
                assert after.tip * 8 >= before.tip * 9
            assert len({sent.nonce for sent in stuck.tries}) == 1
            await rpc.ask("evm_mine")
            await until_used(rpc, sender, begun + 1)
        assert receipts[0].tx in {sent.hash for sent in stuck.tries}
        assert await used(rpc, sender) == begun + 1
    finally:
        await rpc.ask("evm_setAutomine", True)


async def test_one_dropped_by_a_reorganisation_is_sent_again(stage: Stage, rpc: Rpc) -> None:
    async with open_sender(stage, stage.devnet.url) as sender:
        begun = await used(rpc, sender)
        for _ in range(3):
            await sender.send(step())
        await rpc.ask("anvil_reorg", 3, [])
        assert await used(rpc, sender) == begun
        begun_at = trio.current_time()
        assert (await sender.send(step())).ok  # no gap of dropped nonces holds it up
        assert trio.current_time() - begun_at < 5
        await until_used(rpc, sender, begun + 4)
        assert sender.statistics()["dropped"] == 3


async def test_a_gap_that_nobody_will_fill_is_filled(stage: Stage, rpc: Rpc) -> None:
    pace = Pace(look_s=0.05, resend_s=0.2, stuck_s=5, give_up_s=15, settled_blocks=0)
    async with open_sender(stage, stage.devnet.url, pace=pace) as sender:
        begun = await used(rpc, sender)
        await sender.send(step())
        await sender.tend()  # and now it is settled and forgotten
        await rpc.ask("evm_setAutomine", False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send, step())
            with trio.fail_after(5):
                while not sender.unmined():
                    await trio.sleep(0.01)
            await rpc.ask("anvil_reorg", 1, [])
            await rpc.ask("evm_setAutomine", True)
            await until_used(rpc, sender, begun + 2)
        assert sender.statistics()["filled"] == 1


async def test_a_crash_after_signing_loses_nothing(
    stage: Stage, rpc: Rpc, proxy: Proxy, tmp_path: Path
) -> None:
    order, path = step(), tmp_path / "transactions.sqlite"
    async with proxy.rule(losing(1000)), open_sender(stage, proxy.url, path) as sender:
        begun = await used(rpc, sender)
        with trio.move_on_after(0.5):
            await sender.send(order)
        signed = sender.unmined()[0].tries[0].hash
    assert path.stat().st_mode & 0o077 == 0
    async with open_sender(stage, proxy.url, path) as again:
        await until_used(rpc, again, begun + 1)
        found = await rpc.ask("eth_getTransactionByHash", "0x" + signed.hex())
        assert found["nonce"] == hex(begun)
        # The order, given again by whoever owes it, is not sent a second time while it is pending.
        assert (await again.send(step())).ok
        assert await used(rpc, again) == begun + 2


async def test_a_key_used_elsewhere_is_told(stage: Stage, rpc: Rpc, proxy: Proxy) -> None:
    async with open_sender(stage, stage.devnet.url) as other:
        async with proxy.rule(losing(1000)), open_sender(stage, proxy.url) as sender:
            with trio.move_on_after(0.2):
                await sender.send(step())
            await other.send(step())
            (entry,) = sender.unmined()
            with trio.fail_after(10):
                while not entry.gone:
                    await trio.sleep(0.05)
        assert sender.statistics()["lost"] == 1


async def test_gas_above_the_cap_is_not_paid(stage: Stage, rpc: Rpc) -> None:
    async with open_sender(stage, stage.devnet.url, cap=1000) as sender:
        with pytest.raises(ChainError, match="more than the configured cap"):
            await sender.send(step())
        assert not sender.unmined()


async def test_a_key_without_coin_says_so(stage: Stage, rpc: Rpc) -> None:
    async with Rpc((stage.devnet.url,)) as own, open_outbox(None) as outbox:
        poor = Sender(own, b"\x05" * 32, stage.devnet.chain_id, CAP, outbox, QUICK)
        with pytest.raises(ChainError, match="not enough coin") as said:
            await poor.send(Step(HERE, "0x", 10**18))
        assert poor.address in str(said.value)
        assert not poor.unmined()


def test_fees_stay_below_the_cap() -> None:
    assert wanted(100, 7_000_000, 1_000_000_000) == Fees(7_000_200, 7_000_000)
    assert wanted(900, 7, 1000) == Fees(1000, 1000)
    assert wanted(1001, 7, 1000) is None
    assert raised(Fees(80, 16), Fees(0, 0), 1000) == Fees(90, 18)
    assert raised(Fees(81, 1), Fees(0, 0), 1000) == Fees(92, 2)
    assert raised(Fees(80, 16), Fees(500, 40), 1000) == Fees(500, 40)
    assert raised(Fees(80, 16), Fees(5000, 40), 1000) == Fees(1000, 18)
    assert raised(Fees(900, 16), Fees(0, 0), 1000) is None
