"""Circuit: the words of circuit relay v2, and a connection that runs through somebody else's node.

    caller --HOP: CONNECT target--> relay --STOP: CONNECT caller--> target
    caller <------- STATUS -------- relay <-------- STATUS -------- target
    caller ================ Noise, yamux and all the rest ========= target

The relay carries bytes that it cannot read: the handshake inside proves the far peer's key as on
any other connection. https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import TProtocol
from libp2p.network.connection.exceptions import RawConnError
from libp2p.relay.circuit_v2.pb import circuit_pb2
from multiaddr import Multiaddr

from market.errors import UnreachableError
from node.adapters.libp2p.bounds import RELAY_MESSAGE_BYTES_MAX
from node.adapters.libp2p.guard import discard
from node.adapters.libp2p.wire import Wire

HOP: Final = TProtocol("/libp2p/circuit/relay/0.2.0/hop")
STOP: Final = TProtocol("/libp2p/circuit/relay/0.2.0/stop")
HopMessage: Final[Any] = circuit_pb2.HopMessage
StopMessage: Final[Any] = circuit_pb2.StopMessage
Status: Final[Any] = circuit_pb2

_CIRCUIT = "/p2p-circuit"
_SAID: Final = {
    Status.RESERVATION_REFUSED: "it has no reservation to give",
    Status.RESOURCE_LIMIT_EXCEEDED: "it has no circuit to give",
    Status.PERMISSION_DENIED: "it does not allow it",
    Status.CONNECTION_FAILED: "it could not reach the peer",
    Status.NO_RESERVATION: "the peer has no reservation there",
}

Message = TypeVar("Message")


class MalformedCircuitError(UnreachableError):
    """What no implementation of the circuit protocol sends."""


async def read_message(wire: Wire, kind: type[Message]) -> Message:
    """One length-prefixed message. Raises MalformedCircuitError, UnreachableError."""
    size = shift = 0
    while True:
        byte = (await wire.read(1))[0]
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 14:
            raise MalformedCircuitError("a message of the circuit protocol without an end")
    if size > RELAY_MESSAGE_BYTES_MAX:
        raise MalformedCircuitError(f"a message of the circuit protocol of {size} bytes")
    message: Any = kind()
    try:
        message.ParseFromString(await wire.read(size))
    except DecodeError as problem:
        raise MalformedCircuitError("not a message of the circuit protocol") from problem
    return message  # type: ignore[no-any-return]


async def write_message(wire: Wire, message: Any) -> None:
    """Raises UnreachableError."""
    data = message.SerializeToString()
    size, prefix = len(data), bytearray()
    while size >= 0x80:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    await wire.write(bytes(prefix) + data)


def expect_ok(answer: Any, kind: Any) -> None:
    """Raise UnreachableError, in words, unless `answer` is a good STATUS of this kind."""
    if answer.type != kind.STATUS or answer.status != Status.OK:
        said = _SAID.get(answer.status, f"status {answer.status}")
        raise UnreachableError(f"the relay refuses: {said}")


def is_relayed(connection: Any) -> bool:
    """Whether a connection, muxed or of the swarm, runs through a relay."""
    return bool(connection.get_connection_type() == ConnectionType.RELAYED)


def is_circuit(address: str) -> bool:
    """Whether an address leads through a relay."""
    return _CIRCUIT in address


def relay_address(address: str) -> str:
    """The relay's own address in the address of a circuit."""
    return address.partition(_CIRCUIT)[0]


def circuit_address(relay: str) -> str:
    """Where peers are that have a reservation at the relay of this full address."""
    return relay + _CIRCUIT


def hold_window(stream: Any) -> None:
    """Keep yamux from growing this stream's window: bytes waiting in it delay the pings behind."""
    stream.muxed_stream._apply_autotune_epoch = lambda buffered: 0


class CircuitConnection(IRawConnection):  # type: ignore[misc]
    """One end of a circuit, in the place of a socket."""

    def __init__(self, wire: Wire, relay: str, *, initiator: bool) -> None:
        """`relay` is the relay's full address."""
        self._wire = wire
        self._via = Multiaddr(circuit_address(relay))
        self.is_initiator = initiator
        hold_window(wire.stream)

    async def read(self, n: int | None = None) -> bytes:
        """At most `n` bytes; none at the end."""
        try:
            return await self._wire.some(n if n is not None and n > 0 else 65_536)
        except UnreachableError:
            return b""

    async def write(self, data: bytes) -> None:
        """Raises the error that a broken socket raises."""
        try:
            await self._wire.write(data)
        except UnreachableError as problem:
            raise RawConnError(str(problem)) from problem

    async def close(self) -> None:
        """Let go; the relay lets go of the other end."""
        await discard(self._wire.stream)

    def get_remote_address(self) -> tuple[str, int] | None:
        """The relay's: handshakes in progress are counted against it."""
        remote: tuple[str, int] | None = self._wire.stream.muxed_conn.get_remote_address()
        return remote

    def get_transport_addresses(self) -> list[Multiaddr]:
        """Through whom it runs."""
        return [self._via]

    def get_connection_type(self) -> ConnectionType:
        """Relayed."""
        return ConnectionType.RELAYED
