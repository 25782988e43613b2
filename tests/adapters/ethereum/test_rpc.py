"""Endpoints that fail, limit, lag and lie: real HTTP, no chain behind it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from market.errors import ChainError
from node.adapters.ethereum.answers import number
from node.adapters.ethereum.rpc import Rpc, RpcError, WrongChainError
from tests.adapters.ethereum.proxy import Call, Forward, Proxy, Reply, error, open_proxy, result

NOWHERE = "http://127.0.0.1:9"


def block(height: int) -> dict[str, Any]:
    word = "0x" + height.to_bytes(32, "big").hex()
    return {"number": hex(height), "hash": word, "parentHash": word, "timestamp": "0x1"}


def honest(chain_id: int = 31337, height: int = 100) -> Any:
    """A rule that answers a few questions as a chain would."""

    async def rule(call: Call, forward: Forward) -> Reply | None:
        if call["method"] == "eth_chainId":
            return result(call, hex(chain_id))
        if call["method"] == "eth_getBlockByNumber":
            return result(call, block(height))
        return result(call, "0x2a")

    return rule


def constant(reply: Reply) -> Any:
    """A rule that answers everything alike."""

    async def rule(call: Call, forward: Forward) -> Reply | None:
        return reply

    return rule


@pytest.fixture
async def good() -> AsyncIterator[Proxy]:
    async with open_proxy(NOWHERE) as opened:
        opened.rules.append(honest())
        yield opened


@pytest.fixture
async def bad() -> AsyncIterator[Proxy]:
    async with open_proxy(NOWHERE) as opened:
        yield opened


GARBAGE = {
    "nothing": Reply(b""),
    "cut off": Reply(b'{"jsonrpc":"2.0","id":1,"resu'),
    "broken off": Reply(None),
    "not JSON": Reply(b"<html>502 Bad Gateway</html>", 502),
    "a list": Reply(b'[{"jsonrpc":"2.0","id":1,"result":"0x1"}]'),
    "another number": Reply(b'{"jsonrpc":"2.0","id":999,"result":"0x1"}'),
    "no number": Reply(b'{"jsonrpc":"2.0","result":"0x1"}'),
    "neither": Reply(b'{"jsonrpc":"2.0","id":1}'),
    "an odd error": Reply(b'{"jsonrpc":"2.0","id":1,"error":"no"}'),
    "deep": Reply(b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "deep and open": Reply(b"[" * 1_000_000),
    "huge": Reply(b'{"jsonrpc":"2.0","id":1,"result":"0x' + b"1" * (17 << 20) + b'"}'),
    "a wrong type": Reply(b'{"jsonrpc":"2.0","id":1,"result":{"0x2a":1}}'),
    "a bad number": Reply(b'{"jsonrpc":"2.0","id":1,"result":"0xzz"}'),
    "a huge number": Reply(b'{"jsonrpc":"2.0","id":1,"result":"0x' + b"f" * 100_000 + b'"}'),
    "NaN": Reply(b'{"jsonrpc":"2.0","id":1,"result":NaN}'),
    "not UTF-8": Reply(b'{"jsonrpc":"2.0","id":1,"result":"\xff\xfe"}'),
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_is_passed_over(kind: str, good: Proxy, bad: Proxy) -> None:
    bad.rules.append(constant(GARBAGE[kind]))
    # As py_ecc leaves it; the parser must not trust the limit it finds.
    sys.setrecursionlimit(10_000_000)
    async with Rpc((bad.url, good.url)) as rpc:
        assert await rpc.ask("eth_gasPrice", read=number) == 42
        first, second = rpc.endpoints.all
        assert (first.failures, second.failures) == (1, 0)
        assert first.rests_until > trio.current_time()
        # It rests, so the next question does not go there.
        assert await rpc.ask("eth_gasPrice", read=number) == 42
        assert first.asked == 1


async def test_when_none_makes_sense_it_says_so(bad: Proxy) -> None:
    bad.rules.append(constant(GARBAGE["cut off"]))
    async with Rpc((bad.url,)) as rpc:
        with pytest.raises(ChainError, match=r"no RPC endpoint answers \(127.0.0.1:\d+: .*JSON"):
            await rpc.ask("eth_gasPrice", read=number)
        assert rpc.down_since > 1_700_000_000


async def test_one_that_is_down_is_passed_over_and_comes_back(good: Proxy, bad: Proxy) -> None:
    async with Rpc((bad.url, good.url)) as rpc:
        async with bad.rule(constant(Reply(None))):
            assert await rpc.ask("eth_gasPrice", read=number) == 42
        bad.rules.append(honest())
        await trio.sleep(0.6)
        assert await rpc.ask("eth_gasPrice", read=number) == 42
        assert rpc.endpoints.all[0].trouble == ""
        assert good.calls["eth_gasPrice"] == 1


async def test_an_answered_error_is_final(good: Proxy, bad: Proxy) -> None:
    async def refuses(call: Call, forward: Forward) -> Reply | None:
        return error(call, 3, "execution reverted")

    bad.rules.append(refuses)
    async with Rpc((bad.url, good.url)) as rpc:
        with pytest.raises(RpcError, match="execution reverted"):
            await rpc.ask("eth_call")
    assert not good.calls


async def test_rate_limits_are_obeyed(good: Proxy, bad: Proxy) -> None:
    limits = [Reply(b"slow down", 429, (("retry-after", "1"),))]

    async def limited(call: Call, forward: Forward) -> Reply | None:
        return limits.pop() if limits else None

    bad.rules += [honest(), limited]
    async with Rpc((bad.url,)) as rpc:
        begun = trio.current_time()
        assert await rpc.ask("eth_gasPrice", read=number) == 42
        assert trio.current_time() - begun >= 1
        assert bad.calls["eth_gasPrice"] == 2

    async def exceeded(call: Call, forward: Forward) -> Reply | None:
        return error(call, -32005, "daily request count exceeded")

    bad.rules.append(exceeded)
    async with Rpc((bad.url, good.url)) as rpc:
        assert await rpc.ask("eth_gasPrice", read=number) == 42
        assert rpc.endpoints.all[0].trouble == "limits its requests"


async def test_a_wrong_chain_is_refused_with_what_to_do(good: Proxy, bad: Proxy) -> None:
    bad.rules.append(honest(chain_id=1))
    async with Rpc((bad.url,), 31337) as rpc:
        with pytest.raises(WrongChainError, match="is on chain 1, the configuration says") as said:
            await rpc.ask("eth_gasPrice")
        assert "point rpc at the right network" in said.value.hint
    async with Rpc((bad.url, good.url), 31337) as rpc:
        assert await rpc.ask("eth_gasPrice", read=number) == 42
    assert bad.calls["eth_gasPrice"] == 0


async def test_a_lagging_endpoint_moves_nobody_back(good: Proxy, bad: Proxy) -> None:
    async with Rpc((bad.url, good.url)) as rpc:
        async with bad.rule(honest(height=103)):
            assert (await rpc.head()).number == 103
        bad.rules.append(honest(height=50))
        assert (await rpc.head()).number == 100  # near enough
        assert "blocks behind" in rpc.endpoints.all[0].trouble


async def test_one_that_stands_still_is_found_out(good: Proxy, bad: Proxy) -> None:
    bad.rules.append(honest(height=50))
    async with Rpc((bad.url, good.url)) as rpc:
        assert (await rpc.head()).number == 50
        await rpc.compare_heads()
        assert (await rpc.head()).number == 100


async def test_what_it_says_holds_no_key(bad: Proxy) -> None:
    bad.rules.append(constant(Reply(b"no", 401)))
    async with Rpc((f"{bad.url}/v2/s3cret?key=t0p", "http://u:s3cret@127.0.0.1:9/")) as rpc:
        with pytest.raises(ChainError) as said:
            await rpc.ask("eth_gasPrice", read=number)
    assert "HTTP 401" in str(said.value)
    for secret in ("s3cret", "t0p"):
        assert secret not in str(said.value) + said.value.hint
