"""What is told of a chain that reorganises, of endpoints that lie, and while nobody answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from market.chainlog import OpenedAgreement
from market.errors import ChainError
from market.escrow import Opened, RequesterClose
from node.adapters.ethereum.answers import number
from node.adapters.ethereum.chain import open_chain
from node.adapters.ethereum.follower import Batch, Follower
from node.adapters.ethereum.history import History
from node.adapters.ethereum.logs import LogReader
from node.adapters.ethereum.outbox import Transaction
from node.adapters.ethereum.rpc import Rpc
from node.adapters.ethereum.views import Views
from tests import samples
from tests.adapters.contract_chain import ChainWorld
from tests.adapters.contract_chain import told as facts_told
from tests.adapters.ethereum.proxy import Call, Forward, Proxy, Reply, error, result
from tests.adapters.ethereum.stage import SIGNERS, Stage, open_world


class Following:
    """A follower that runs, and what it told."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.batches: list[Batch] = []

    @property
    def ids(self) -> list[str]:
        return [type(event).__name__ for batch in self.batches for event in batch.events]

    async def run(self, after: int) -> None:
        async for batch in self.follower.batches(after):
            self.batches.append(batch)

    async def until(self, block: int) -> None:
        with trio.fail_after(10):
            while not self.batches or self.batches[-1].block < block:
                await trio.sleep(0.02)


@asynccontextmanager
async def following(
    stage: Stage, *urls: str, confirmations: int = 1, after: int = 0
) -> AsyncIterator[Following]:
    async with Rpc(urls or (stage.devnet.url,), patience_s=0.3) as own:
        reader = LogReader(own, stage.devnet.escrow)
        found = Following(
            Follower(own, reader, confirmations=confirmations, poll_s=0.03, still_s=0.3)
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.run, after)
            yield found
            nursery.cancel_scope.cancel()


async def head(rpc: Rpc) -> int:
    return await rpc.ask("eth_blockNumber", read=number)


async def mine(rpc: Rpc, count: int) -> None:
    await rpc.ask("anvil_mine", hex(count))


async def test_a_reorganised_fact_is_withdrawn_and_the_new_one_told(
    stage: Stage, rpc: Rpc, world: ChainWorld
) -> None:
    start = await head(rpc)
    async with following(stage, confirmations=4, after=start) as told:
        terms = await world.opened()
        await trio.sleep(0.2)  # it is seen, but not deep
        assert told.ids == []
        # The block with the opening is replaced; the node's own sender brings it back.
        await rpc.ask("anvil_reorg", 1, [])
        with trio.fail_after(10):
            while not told.ids:
                await mine(rpc, 1)
                await trio.sleep(0.1)
        await mine(rpc, 6)
        await told.until(await head(rpc) - 3)
        assert told.follower.counts["withdrawn"] == 1
        assert told.ids == ["OpenedAgreement"]
        block = next(batch.block for batch in told.batches if batch.events)
    (fact,) = await world.story(terms, Opened)
    assert fact.agreement == world.id(terms)
    receipt = await rpc.ask("eth_getTransactionReceipt", "0x" + fact.tx.hex())
    assert number(receipt["blockNumber"]) == block > start + 1


async def test_blocks_are_told_once_and_in_order_over_reorganisations(
    stage: Stage, rpc: Rpc
) -> None:
    start = await head(rpc)
    async with following(stage, confirmations=7, after=start) as told:
        for depth in (1, 3, 6, 2, 6):
            await mine(rpc, 7)
            await trio.sleep(0.1)
            await rpc.ask("anvil_reorg", depth, [])
        await mine(rpc, 8)
        await told.until(await head(rpc) - 6)
        assert told.follower.counts["reorganisations"] >= 3
        assert told.follower.counts["too_deep"] == 0
    numbers = [batch.block for batch in told.batches]
    assert numbers == list(range(start + 1, numbers[-1] + 1))
    for batch in told.batches[-20:]:
        block = await rpc.ask("eth_getBlockByNumber", hex(batch.block), False)
        assert number(block["timestamp"]) == batch.at_s


async def test_deeper_than_the_confirmations_the_new_branch_is_told_too(
    stage: Stage, rpc: Rpc
) -> None:
    snapshot = await rpc.ask("evm_snapshot")
    raw = []
    async with open_world(stage, rpc) as world:
        for unit in (1, 2):
            tx = await world.requester.chain.submit(world.opening(await world.terms(units=unit)))
            name = "0x" + tx.hex()
            raw.append(await rpc.ask("eth_getRawTransactionByHash", name))
    await rpc.ask("evm_revert", snapshot)
    start = await head(rpc)
    async with following(stage, after=start) as told:
        await rpc.ask("eth_sendRawTransaction", raw[0])
        await mine(rpc, 3)
        await told.until(start + 4)
        assert told.ids == ["OpenedAgreement"]
        # The new branch says the same in another block, and one thing more.
        await rpc.ask("anvil_reorg", 4, [[raw[0], 1], [raw[1], 2]])
        await mine(rpc, 3)
        await told.until(start + 7)
        assert told.follower.counts["too_deep"] == 1
    opened = [event for batch in told.batches for event in batch.events]
    assert all(isinstance(event, OpenedAgreement) for event in opened)
    # What has another time in the new branch is said again, and what is new besides.
    assert [event.units for event in opened if isinstance(event, OpenedAgreement)][-1] == 2
    assert len(opened) == len(set(opened)) <= 3
    numbers = [batch.block for batch in told.batches]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_ranges_are_as_small_as_the_endpoint_wants(
    stage: Stage, rpc: Rpc, proxy: Proxy, world: ChainWorld, limit: int
) -> None:
    start = await head(rpc)
    for unit in range(3):
        await world.opened(units=1 << unit, deposit=1_000_000)
        await mine(rpc, 50)

    async def too_many(call: Call, forward: Forward) -> Reply | None:
        asked = call["params"][0] if call["method"] == "eth_getLogs" else {}
        if "toBlock" not in asked:
            return None
        if int(asked["toBlock"], 16) - int(asked["fromBlock"], 16) + 1 > limit:
            return error(call, -32602, "block range is too wide")
        return None

    proxy.rules.append(too_many)
    async with following(stage, proxy.url, after=start) as told:
        await told.until(await head(rpc))
    assert told.ids == ["OpenedAgreement"] * 3


async def test_it_goes_on_after_the_last_block_it_told(
    stage: Stage, rpc: Rpc, world: ChainWorld
) -> None:
    start = await head(rpc)
    first = await world.opened(units=1)
    async with following(stage, after=start) as told:
        await told.until(await head(rpc))
        last = told.batches[-1].block
    await world.requester.chain.submit(RequesterClose(first))
    async with following(stage, after=last) as again:
        await again.until(await head(rpc))
    assert (told.ids, again.ids) == (["OpenedAgreement"], ["ClosingBegun"])
    assert again.batches[0].block == last + 1


LIES: dict[str, Any] = {
    "another contract": {"address": "0x" + "11" * 20},
    "another block": {"blockHash": "0x" + "22" * 32},
    "no topics": {"topics": []},
    "a short topic": {"topics": ["0x11"]},
    "cut data": {"data": "0x00"},
    "no data": {"data": None},
    "a long number": {"logIndex": "0x" + "f" * 80},
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_about_a_log_is_not_believed(
    stage: Stage, rpc: Rpc, proxy: Proxy, world: ChainWorld, lie: str
) -> None:
    start = await head(rpc)
    await world.opened()

    async def lies(call: Call, forward: Forward) -> Reply | None:
        if call["method"] != "eth_getLogs":
            return None
        answer = (await forward())["result"]
        return result(call, [{**log, **LIES[lie]} for log in answer])

    async with proxy.rule(lies):
        async with following(stage, proxy.url, stage.devnet.url, after=start) as told:
            await told.until(await head(rpc))
            assert told.ids == ["OpenedAgreement"]  # by the other endpoint
        async with following(stage, proxy.url, after=start) as alone:
            with trio.fail_after(10):
                while not alone.follower.trouble:
                    await trio.sleep(0.02)
            assert alone.ids == []


async def test_an_endpoint_behind_or_standing_still_holds_nobody_up(
    stage: Stage, rpc: Rpc, proxy: Proxy
) -> None:
    start = await head(rpc)
    await mine(rpc, 5)
    old = await rpc.ask("eth_getBlockByNumber", hex(start), False)

    async def lags(call: Call, forward: Forward) -> Reply | None:
        if call["method"] == "eth_getBlockByNumber" and call["params"][0] == "latest":
            return result(call, old)
        return None

    proxy.rules.append(lags)
    async with following(stage, proxy.url, stage.devnet.url, after=start) as told:
        await told.until(start + 5)  # the one behind is found out when nothing moves
        await mine(rpc, 2)
        await told.until(start + 7)
    numbers = [batch.block for batch in told.batches]
    assert numbers == list(range(start + 1, start + 8))


async def test_while_nobody_answers_it_says_since_when(
    stage: Stage, rpc: Rpc, proxy: Proxy, tmp_path: Path
) -> None:
    async def down(call: Call, forward: Forward) -> Reply | None:
        return Reply(None)

    async def is_waiting(world: ChainWorld, *, waits: bool) -> str:
        with trio.fail_after(20):
            while bool(world.requester.chain.health().waiting_for) != waits:
                await trio.sleep(0.02)
        return world.requester.chain.health().waiting_for

    config = {"outbox": tmp_path / "transactions.sqlite", "give_up_s": 0.3, "patience_s": 0.6}
    async with open_world(stage, rpc, urls=(proxy.url,), **config) as world:
        seen: list[int] = []

        async def follow() -> None:
            async for batch in world.requester.chain.facts(await head(rpc)):
                seen.append(batch.block)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await mine(rpc, 1)
            await is_waiting(world, waits=False)
            async with proxy.rule(down):
                words = await is_waiting(world, waits=True)
                assert "127.0.0.1" in words
                since = world.requester.chain.health().since
                with pytest.raises(ChainError, match="no RPC endpoint answers"):
                    await world.requester.chain.submit(RequesterClose(samples.terms()))
                assert world.requester.chain.health().since == since
            await mine(rpc, 1)
            await is_waiting(world, waits=False)
            with trio.fail_after(10):
                while not seen or seen[-1] < await head(rpc):
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
    assert seen == sorted(set(seen))
    # A node that knows this contract starts without the chain too, and waits.
    async with proxy.rule(down):
        chosen = replace(stage.config, urls=(proxy.url,), **config)
        async with open_chain(chosen, SIGNERS[0].operator_key) as chain:
            assert (chain.info.symbol, chain.info.decimals) == ("tUSD", 6)
            assert chain.health().waiting_for
        strange = replace(chosen, escrow=b"\x09" * 20)
        with pytest.raises(ChainError, match="no RPC endpoint answers"):
            async with open_chain(strange, SIGNERS[0].operator_key):
                pass


async def test_a_clock_that_is_behind_the_chain_is_told(stage: Stage, rpc: Rpc) -> None:
    async with open_world(stage, rpc) as world:
        await world.pass_time(600)
        async with facts_told(world.requester.chain, await head(rpc) - 1) as batches:
            async for batch in batches:
                if batch.block == await head(rpc):
                    break
        health = world.requester.chain.health()
    assert "ahead of this machine's: set the clock" in health.waiting_for
    assert health.head_at_s - health.since > 500


async def test_a_wrong_configuration_is_refused_with_what_to_do(stage: Stage, rpc: Rpc) -> None:
    for change, words in (
        ({"chain_id": 1}, "is on chain 31337, the configuration says 1"),
        ({"escrow": b"\x01" * 20}, "no contract at 0x0101"),
        ({"escrow": stage.devnet.token}, "not this version's Escrow"),
        ({"token": stage.devnet.escrow}, "is not a token"),
    ):
        with pytest.raises(ChainError, match=words):
            async with open_chain(
                replace(stage.config, **change),
                SIGNERS[0].operator_key,  # type: ignore[arg-type]
            ):
                pass


async def test_a_chain_started_anew_gets_none_of_the_old_transactions(
    stage: Stage, rpc: Rpc, tmp_path: Path
) -> None:
    chosen = replace(stage.config, outbox=tmp_path / "transactions.sqlite")
    async with open_chain(chosen, SIGNERS[0].operator_key) as chain:
        await chain._outbox.remember("genesis", b"\x01" * 32)
        await chain._outbox.put(Transaction(0, b"\x02" * 32, b"raw", b"", "0x", 0, 1, 1, 1))
    async with open_chain(chosen, SIGNERS[0].operator_key) as chain:
        assert await chain._outbox.load() == ()


async def test_where_the_contract_began_is_found(stage: Stage, rpc: Rpc, proxy: Proxy) -> None:
    await mine(rpc, 7)
    found = await _views(stage, rpc).deployed_at()
    escrow = "0x" + stage.devnet.escrow.hex()
    assert await rpc.ask("eth_getCode", escrow, hex(found)) != "0x"
    assert await rpc.ask("eth_getCode", escrow, hex(found - 1)) == "0x"

    async def forgets(call: Call, forward: Forward) -> Reply | None:
        if call["method"] == "eth_getCode":
            return error(call, -32000, "missing trie node")
        return None

    proxy.rules.append(forgets)
    async with Rpc((proxy.url,)) as own:
        assert await _views(stage, own).deployed_at() == 0


def _views(stage: Stage, rpc: Rpc) -> Views:
    return Views(stage.config, rpc, History(LogReader(rpc, stage.devnet.escrow), 0))
