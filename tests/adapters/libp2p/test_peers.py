"""Peers: they are found, kept, remembered, measured, and dropped when they fall silent."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import trio

from market.codec import decode
from market.units import UnixTime
from node.adapters.libp2p.addressbook import AddressBook
from node.adapters.libp2p.bounds import ADDRESSES_MAX, ADDRESSES_PER_PEER_MAX
from node.adapters.libp2p.identity import format_address, key_pair
from node.adapters.libp2p.peerkeeper import Known
from node.adapters.libp2p.peers import Peers
from tests.adapters.contract_network import hear, meshed, until
from tests.adapters.libp2p.world import World, dial, seed, stock_host


def key(number: int) -> bytes:
    """The public key of a test network."""
    public: bytes = key_pair(seed(number + 1)).public_key.to_bytes()
    return public


def address(number: int, port: int = 4001) -> str:
    """Some address of that peer."""
    return format_address(f"/ip4/127.0.0.1/tcp/{port}", key(number))


async def test_nodes_that_know_one_peer_find_the_others(networks: World) -> None:
    """Four nodes that are told of the first one only end up connected to each other."""
    first = await networks.alone(0)
    others = [await networks.alone(number, bootstrap=first.addresses()) for number in (1, 2, 3)]
    everybody = {key(number) for number in range(4)}
    for network in (first, *others):
        await until(
            lambda network=network: (
                {info.peer for info in network.peers()} == everybody - {network.key}
            )
        )


async def test_the_address_book_brings_a_node_back_without_bootstrap(
    networks: World, tmp_path: Path
) -> None:
    first = await networks.alone(0)
    book = tmp_path / "state" / "peers.json"
    other = await networks.alone(1, bootstrap=first.addresses(), address_book=book)
    await until(lambda: other._book.addresses(first.key) != ())
    await networks.stop(other)
    assert json.loads(book.read_text())[first.key.hex()]["addresses"] == list(first.addresses())
    again = await networks.alone(1, address_book=book)
    await until(lambda: [info.peer for info in again.peers()] == [first.key])


async def test_a_peer_that_comes_back_is_dialled_again(networks: World) -> None:
    first = await networks.start(0)
    port = first.addresses()[0].split("/p2p/")[0]
    other = await networks.alone(1, bootstrap=first.addresses())
    await until(lambda: len(other.peers()) == 1)
    await networks.stop(first)
    await until(lambda: first.key in other._keeper._back_offs)
    first = await networks.alone(0, listen=(port,))
    await until(lambda: len(other.peers()) == 1)
    await meshed(first, other)
    await first.publish("offers", b"back")
    assert [heard.data for heard in await hear(other, 1)] == [b"back"]


async def test_a_request_dials_a_known_peer(networks: World) -> None:
    first = await networks.start(0)

    async def answer(peer: bytes, data: bytes) -> bytes:
        return data

    first.answer(answer)
    other = await networks.alone(1, min_peers=0, keeper_interval_s=60.0)
    await other.connect(first.addresses()[0])
    await other._peers.drop(first.key)
    await until(lambda: other.peers() == ())
    assert await other.request(first.key, b"again", timeout_s=20) == b"again"


async def test_a_silent_peer_is_dropped(networks: World) -> None:
    """The connection stands, but nothing is answered any more: only a ping can tell."""
    one = await networks.start(0, ping_interval_s=0.2, ping_timeout_s=2.0)
    other = await networks.alone(1, ping_interval_s=60.0, min_peers=0)
    await other.connect(one.addresses()[0])
    await until(lambda: any(info.rtt_us for info in one.peers()))

    async def silent(stream: object) -> None:
        await trio.sleep_forever()

    other._host.set_stream_handler("/ipfs/ping/1.0.0", silent)
    await until(lambda: one.peers() == ())


async def test_a_peer_that_does_not_speak_ping_stays(networks: World) -> None:
    """Ping is no duty in libp2p, and js-libp2p leaves it out; a peer that says so is alive."""
    one = await networks.start(0, ping_interval_s=0.05, ping_timeout_s=5.0)
    async with stock_host() as host:
        host.remove_stream_handler("/ipfs/ping/1.0.0")
        await dial(host, one)
        asked = Counter[str]()
        measure = one._peers._ping

        async def counted(key: bytes) -> int:
            rtt_us = await measure(key)
            asked["answered"] += 1
            return rtt_us

        one._peers._ping = counted  # type: ignore[method-assign]
        await until(lambda: asked["answered"] >= 3)
        assert [info.rtt_us is not None for info in one.peers()] == [True]
        await host.close()
        await until(lambda: one.peers() == ())


async def test_the_round_trip_is_measured_and_plausible(networks: World) -> None:
    one, other = await networks.start(0), await networks.start(1)
    await until(lambda: all(info.rtt_us is not None for info in (*one.peers(), *other.peers())))
    measured = [info.rtt_us for info in (*one.peers(), *other.peers())]
    assert all(rtt is not None and 50 < rtt < 1_000_000 for rtt in measured)


async def test_a_node_vouches_only_for_what_it_knows(networks: World) -> None:
    """An inbound peer's claim counts if it names the host that the peer connects from."""
    one, other = await networks.start(0), await networks.start(1)
    third = await networks.alone(2, bootstrap=one.addresses(), min_peers=0)
    await until(lambda: third.key in {info.peer for info in one.peers()})
    (seen,) = [info for info in one.peers() if info.peer == third.key]
    await until(lambda: one._keeper._own_claims(seen) != [])
    assert one._keeper._own_claims(replace(seen, address="/ip4/203.0.113.9/tcp/1")) == []
    known = decode(Known, await one._keeper.tell(third.key, b""))
    assert known.addresses == (other.addresses()[0],)


async def test_joined_keeps_the_newest_for_a_slow_listener(networks: World) -> None:
    one = await networks.start(0)
    joined = one.joined()
    others = [await networks.alone(number, bootstrap=one.addresses()) for number in (1, 2)]
    await until(lambda: len(one.peers()) == 2)
    with trio.fail_after(5):
        found = {await anext(joined), await anext(joined)}
    assert found == {other.key for other in others}
    assert isinstance(one._peers, Peers)


async def test_the_book_is_bounded_and_survives_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    book = AddressBook(path)
    for number in range(1, ADDRESSES_MAX + 3):
        book.reached(number.to_bytes(32, "big"), f"address {number}", UnixTime(float(number)))
    assert len(book.peers()) == ADDRESSES_MAX
    assert book.peers()[0] == (ADDRESSES_MAX + 2).to_bytes(32, "big")
    book.heard_of(key(1), address(1))
    assert book.addresses(key(1)) == (), "hearsay must not displace whom we have reached"
    book = AddressBook(path)
    for port in range(10):
        book.heard_of(key(1), address(1, port))
    assert len(book.addresses(key(1))) == ADDRESSES_PER_PEER_MAX
    for broken in ("", "[]", '{"x": 1}', '{"00": {"addresses": [1], "seen": "soon"}}', "\0"):
        path.write_text(broken)
        fresh = AddressBook(path)
        await fresh.load()
        assert fresh.peers() == ()


async def test_the_book_keeps_what_was_reached_first(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    book = AddressBook(path)
    book.heard_of(key(1), address(1, 1))
    book.reached(key(1), address(1, 2), UnixTime(5.0))
    assert book.addresses(key(1)) == (address(1, 2), address(1, 1))
    assert book.has_news
    await book.save()
    book.reached(key(1), address(1, 2), UnixTime(9.0))
    assert not book.has_news, "that it is still there can wait"
    again = AddressBook(path)
    await again.load()
    assert again.addresses(key(1)) == (address(1, 2), address(1, 1))
    path.write_text(json.dumps({key(2).hex(): {"addresses": [address(1)], "seen": 1}}))
    again = AddressBook(path)
    await again.load()
    assert again.peers() == ()
