"""Certificates between simulated nodes: what honest and lying units come to be believed of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from market.certificate import (
    HISTORY,
    LIFETIME_S,
    Certificate,
    Standing,
    Tried,
    allowed_s,
    dlperf_milli,
    false_alarm,
    size_of,
    standing,
)
from market.errors import IntegrityError, NotFoundError, RefusedError
from market.job import JobState
from market.product import (
    LEFT,
    PRIME,
    RIGHT,
    ROWS_SHOWN,
    check,
    leaf,
    path,
    root_from,
    row_bytes,
    rows_of,
    tree,
)
from node.challenger import chance_of_escape
from tests.simulation.bench import HONEST
from tests.simulation.world import Machine, World, open_world

WAIT_S = 40  # two rounds of offers, and the pause between challenges


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def market(world: World, providers: int = 1) -> tuple[Machine, ...]:
    """Certified providers and a requester, all up and heard."""
    names = [f"provider{number}" for number in range(providers)]
    found = [world.add(name, units=1, price=3_600_000 + n) for n, name in enumerate(names)]
    found.append(world.add("buyer"))
    for machine in found:
        await machine.start()
    for machine in found[:-1]:
        assert machine.control is not None
        await machine.control.certificates.certify()
    await trio.sleep(15)
    return tuple(found)


def offers(machine: Machine) -> list[dict[str, object]]:
    """The offers as this machine's node believes them."""
    assert machine.control is not None
    return machine.control.market.offers()


async def challenge(buyer: Machine, provider: Machine) -> dict[str, object]:
    assert buyer.control is not None
    await trio.sleep(WAIT_S)
    return (await buyer.control.certificates.challenge(provider.signer.peer.hex()))[0]


async def test_an_honest_unit_is_verified_by_whoever_challenged_it(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        provider, buyer = await market(world)
        (offer,) = offers(buyer)
        assert not offer["verified"]  # a claim is only a claim
        assert offer["dlperf"] > 0  # type: ignore[operator]
        row = await challenge(buyer, provider)
        assert (row["right"], row["in_time"], row["standing"]) == (True, True, "passed")
        await trio.sleep(WAIT_S)
        assert offers(buyer)[0]["verified"]
        # It is remembered over a restart, and by nobody else.
        await buyer.crash()
        await buyer.start()
        await trio.sleep(WAIT_S)
        assert offers(buyer)[0]["verified"]
        other = world.add("other")
        await other.start()
        await trio.sleep(WAIT_S)
        assert not offers(other)[0]["verified"]


async def test_a_wrong_answer_costs_the_claim_at_once(autojump_clock: MockClock) -> None:
    async with open_world(2) as world:
        provider, buyer = await market(world)
        provider.bench.wrong = 0.5
        row = await challenge(buyer, provider)
        assert (row["right"], row["standing"]) == (False, "failed")
        await trio.sleep(WAIT_S)
        (offer,) = offers(buyer)
        assert (offer["verified"], offer["dlperf"]) == (False, 0)


async def test_a_slow_answer_costs_it_from_the_third_on(autojump_clock: MockClock) -> None:
    async with open_world(3) as world:
        provider, buyer = await market(world)
        provider.bench.slower = 50.0
        told = [(await challenge(buyer, provider))["standing"] for _ in range(3)]
        assert told == ["unknown", "unknown", "failed"]
        provider.bench.slower = 1.0  # and is won back once the late ones are no longer the latest
        told = [(await challenge(buyer, provider))["standing"] for _ in range(3)]
        assert told == ["failed", "failed", "passed"]


async def test_a_unit_that_works_is_left_alone(autojump_clock: MockClock) -> None:
    async with open_world(4) as world:
        provider, buyer = await market(world)
        job_id = await world.submit(buyer, "work 200")
        with trio.fail_after(100):
            while world.job(buyer, job_id).state is not JobState.RUNNING:
                await trio.sleep(1)
        with pytest.raises(RefusedError, match="busy"):
            await challenge(buyer, provider)
        assert provider.control is not None
        with pytest.raises(RefusedError, match="rented"):
            await provider.control.certificates.certify()
        assert buyer.control is not None
        (row,) = buyer.control.certificates.all()["offered"]
        assert row["standing"] == "unknown"


async def test_verified_in_a_job_file_means_something(autojump_clock: MockClock) -> None:
    """Two providers claim; the cheaper one lies. The job finds out, and runs at the other."""
    async with open_world(5) as world:
        liar, honest, buyer = await market(world, 2)
        liar.bench.wrong = 1.0
        job_id = await world.submit(buyer, "work 5", verified=True, max_hourly_cost="7.2")
        job = await world.until_over(buyer, job_id, 400)
        assert job.state is JobState.SUCCEEDED, world.tell()
        assert buyer.control is not None
        shown = await buyer.control.jobs.show(job_id.hex())
        assert shown["provider"] == honest.signer.peer.hex()


async def test_without_a_certificate_nothing_is_verified(autojump_clock: MockClock) -> None:
    async with open_world(6) as world:
        provider, buyer = world.add("provider", units=1, price=3_600_000), world.add("buyer")
        for machine in (provider, buyer):
            await machine.start()
        await trio.sleep(15)
        assert [offer["verified"] for offer in offers(buyer)] == [False]
        with pytest.raises(NotFoundError):
            await challenge(buyer, provider)


async def test_a_certificate_of_somebody_else_is_worth_nothing(autojump_clock: MockClock) -> None:
    async with open_world(7) as world:
        provider, buyer = await market(world)
        assert provider.control is not None
        certifier = provider.control.certificates._certifier
        own = certifier.certified[0]
        for changed in (
            replace(own, certificate=replace(own.certificate, fp32_gflops=10_000)),
            replace(own, certificate=replace(own.certificate, peer=bytes(32))),
            replace(own, signature=bytes(64)),
        ):
            certifier.certified[0] = changed
            await trio.sleep(WAIT_S)
            assert [offer["dlperf"] for offer in offers(buyer)] == [0]
            assert buyer.control is not None
            assert buyer.control.certificates.all()["offered"] == []


# The arithmetic.

CERTIFICATE = Certificate(
    peer=bytes(32), unit=0, uuid="GPU-1", name="RTX 3090", ram_mib=24 * 1024,
    fp32_gflops=35_000, fp16_gflops=142_000, int8_gops=0, memory_mbps=936_000, pcie_mbps=0,
    disk_mbps=0, inet_up_kbps=0, inet_down_kbps=0, library="", measured_at_s=0, expires_at_s=9,
)  # fmt: skip


def test_the_reference_is_one_and_sizes_fit_memory_and_time() -> None:
    assert dlperf_milli(CERTIFICATE) == 1000
    size = size_of(CERTIFICATE)
    assert 12 * size**2 <= 0.8 * 24 * 2**30
    assert 2 * size**3 / 35e12 < 8.01
    assert size_of(replace(CERTIFICATE, uuid="cpu-0", fp32_gflops=20, ram_mib=0)) <= 2176
    assert allowed_s(CERTIFICATE, size, 0.1) > 2 * 2 * size**3 / 35e12


def test_the_false_alarm_rate_is_what_the_rule_says() -> None:
    dice = np.random.default_rng(11)
    late = 0.3
    runs = dice.random((20_000, HISTORY)) < late
    failed = sum(
        standing(tuple(Tried(i, True, not one) for i, one in enumerate(run)), 10.0)
        is Standing.FAILED
        for run in runs
    )
    assert abs(failed / len(runs) - false_alarm(late)) < 0.01
    assert false_alarm(0.01) < 1e-5
    assert chance_of_escape(0.9) < 0.04
    old = tuple(Tried(0, False, True) for _ in range(HISTORY))
    assert standing(old, LIFETIME_S + 1.0) is Standing.UNKNOWN


@pytest.mark.parametrize("size", [1, 2, 5, 63, 64, 200])
def test_a_product_is_checked_and_any_wrong_number_is_found(size: int) -> None:
    seed, every = bytes([size]) * 32, np.arange(size)
    left, right = (rows_of(seed, which, size, every).astype(np.int64) for which in (LEFT, RIGHT))
    found = left @ right
    levels = tree([leaf(i, row_bytes(row)) for i, row in enumerate(found)])
    shown = {i: row_bytes(found[i]) for i in range(0, size, 3)}
    random = np.random.default_rng(2).integers(0, PRIME, size)
    assert check(seed, size, shown, random)
    for index, data in shown.items():
        proof = path(levels, index)
        assert root_from(index, data, proof, size) == levels[-1][0]
        assert root_from(index, data[:-1] + bytes([data[-1] ^ 1]), proof, size) != levels[-1][0]
        with pytest.raises(IntegrityError):
            root_from(index, data, (*proof, bytes(32)), size)
        spoilt = np.frombuffer(data, "<u4").copy()
        spoilt[size // 2] += 1
        assert not check(seed, size, {**shown, index: row_bytes(spoilt)}, random)
    assert ROWS_SHOWN <= 64
    assert HONEST.fp32_gflops


def test_a_row_can_be_made_alone() -> None:
    whole = rows_of(b"s" * 32, LEFT, 300, np.arange(300))
    assert (rows_of(b"s" * 32, LEFT, 300, np.array([7, 250])) == whole[[7, 250]]).all()
    assert set(np.unique(whole)) == set(range(8))
    assert abs(whole.mean() - 3.5) < 0.05
    assert not (whole == rows_of(b"s" * 32, RIGHT, 300, np.arange(300))).all()
