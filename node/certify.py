"""Certify: measures this node's own units, signs what was found, and answers challenges to it.

A unit that is rented is left alone: measuring takes all of it. One piece of work at a time, in a
process of its own. Judges nobody else; that is `challenger`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from market.certificate import (
    LIFETIME_S,
    OVERHEAD_S,
    Certificate,
    Certified,
    allowed_s,
    discounted,
    signed_bytes,
    size_of,
)
from market.codec import decode, encode
from market.errors import CodecError, MarketError, RefusedError, SandboxError
from market.limits import CHALLENGES_EVERY_S, RECORD_BYTES_MAX
from market.messages import Challenge, Committed, Show, Shown
from node.keeper import Keeper, Noted
from node.ports import Channel, Ports, Unit

log = structlog.get_logger("certify")
PROTOCOL = "challenge"
WAIT_S = 60.0  # for the challenger's next word
NOTE = b"certificate/"
VRAM_LEAST = 0.85  # of what the driver says: the rest is its own
Line = Callable[[], Awaitable[tuple[int, int]]]
"""Measures the line: kbit/s down and up, 0 where nobody helped."""


class Certifier:
    """The certificates of this node's units."""

    def __init__(self, ports: Ports, keeper: Keeper, line: Line) -> None:
        """Finds again what was certified before a restart. `line` measures the node's own."""
        self._ports = ports
        self._line = line
        self._keeper = keeper
        self._working = trio.Lock()
        self._challenged_at = -CHALLENGES_EVERY_S
        self.certified: dict[int, Certified] = {}
        for key, data in keeper.notes.items():
            if key.startswith(NOTE):
                found = decode(Certified, data, size_max=RECORD_BYTES_MAX)
                self.certified[found.certificate.unit] = found

    async def certify(self, tell: Callable[[str], None]) -> tuple[Certified, ...]:
        """Measure every unit, sign and keep the certificates. RefusedError while one is rented."""
        units = self._ports.devices.units()
        if not units:
            raise RefusedError("this node has no units to measure", hint="add a [provider] table")
        async with self._working:
            for unit in units:
                self._check_free(unit)
            tell("measuring the line, with the peers that are connected")
            down_kbps, up_kbps = await self._line()
            for unit in units:
                self._check_free(unit)
                tell(f"measuring unit {unit.index}, {unit.name}")
                await self._one(unit, down_kbps, up_kbps)
        return tuple(self.certified[unit.index] for unit in units)

    def _check_free(self, unit: Unit) -> None:
        if self._keeper.taken_units() >> unit.index & 1:
            raise RefusedError(f"unit {unit.index} is rented", hint="souk provider drain")

    async def _one(self, unit: Unit, down_kbps: int, up_kbps: int) -> None:
        uuid, now = uuid_of(unit), int(self._ports.clock.now())
        measured = discounted(await self._ports.bench.measure(uuid, unit.ram_mib))
        if 0 < measured.vram_mib < VRAM_LEAST * unit.ram_mib:
            raise RefusedError(
                f"unit {unit.index} gives {measured.vram_mib} MiB, its driver names {unit.ram_mib}",
                hint="see what else uses it: nvidia-smi",
            )  # fmt: skip
        certificate = Certificate(
            peer=self._ports.signer.peer, unit=unit.index, uuid=uuid, name=unit.name,
            ram_mib=measured.vram_mib or unit.ram_mib, fp32_gflops=measured.fp32_gflops,
            fp16_gflops=measured.fp16_gflops, int8_gops=measured.int8_gops,
            memory_mbps=measured.memory_mbps, pcie_mbps=measured.pcie_mbps,
            disk_mbps=measured.disk_mbps, inet_up_kbps=up_kbps, inet_down_kbps=down_kbps,
            library=measured.library, measured_at_s=now, expires_at_s=now + LIFETIME_S,
        )  # fmt: skip
        made = Certified(certificate, self._ports.signer.sign(signed_bytes(certificate)))
        self.certified[unit.index] = made
        await self._keeper.post(Noted(NOTE + bytes([unit.index]), encode(made)))
        log.info("unit certified", unit=unit.index, fp32_gflops=certificate.fp32_gflops,
                 memory_mbps=certificate.memory_mbps)  # fmt: skip

    def slowest(self, units: tuple[Unit, ...]) -> Certified | None:
        """The certificate that speaks for equal units: the slowest; None if one has none."""
        now = self._ports.clock.now()
        found = [self.certified.get(unit.index) for unit in units]
        live = [
            one
            for one, unit in zip(found, units, strict=True)
            if one is not None and one.certificate.expires_at_s > now
            and (one.certificate.uuid, one.certificate.name) == (uuid_of(unit), unit.name)
        ]  # fmt: skip
        if len(live) < len(units):
            return None
        return min(live, key=lambda one: (one.certificate.fp32_gflops, one.certificate.unit))

    async def serve(self, channel: Channel) -> None:
        """Answer one challenge. Anything malformed ends the channel."""
        frame = await channel.receive()
        try:
            asked = decode(Challenge, frame or b"", size_max=512)
        except CodecError:
            return
        code = self._refusal(asked)
        if code:
            await channel.send(encode(Committed(code, bytes(32), 0)))
            return
        async with self._working:
            self._challenged_at = trio.current_time()
            await self._answer(channel, asked)

    def _refusal(self, asked: Challenge) -> str:
        mine = self.certified.get(asked.unit)
        if mine is None or mine.certificate.uuid != asked.uuid:
            return "unknown"
        if not 0 < asked.size <= size_of(mine.certificate):
            return "stale"
        often = trio.current_time() < self._challenged_at + CHALLENGES_EVERY_S
        rented = self._keeper.taken_units() >> asked.unit & 1
        return "busy" if often or rented or self._working.locked() else ""

    async def _answer(self, channel: Channel, asked: Challenge) -> None:
        certificate = self.certified[asked.unit].certificate
        limit_s = 4 * allowed_s(certificate, asked.size, 0.0) + OVERHEAD_S + WAIT_S
        answered = False
        try:
            async with self._ports.bench.product(
                asked.uuid, asked.seed, asked.size, limit_s
            ) as product:
                made = product.commitment
                await channel.send(encode(Committed("", made.root, made.compute_ms)))
                answered = True
                await self._show(channel, product.show, asked.size)
        except SandboxError as problem:
            log.warning("a challenge could not be answered", problem=str(problem))
            if not answered:
                await channel.send(encode(Committed("failed", bytes(32), 0)))
        except MarketError as problem:
            log.info("a challenger went away", problem=str(problem))

    async def _show(self, channel: Channel, show: Callable[..., object], size: int) -> None:
        with trio.move_on_after(WAIT_S):
            try:
                rows = decode(Show, await channel.receive() or b"", size_max=1024).rows
            except CodecError:
                return
            if not all(row < size for row in rows) or len(set(rows)) != len(rows):
                return
            for index, path, data in await show(rows):  # type: ignore[misc]
                await channel.send(encode(Shown(index, path)))
                await channel.send(data)


def uuid_of(unit: Unit) -> str:
    """What a unit is called in certificates."""
    return unit.uuid or f"cpu-{unit.index}"
