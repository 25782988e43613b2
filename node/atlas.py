"""Atlas: where this node is on the map of round trips, and where others say they are.

Every few seconds it compares the round trips that the link measures with the map (Vivaldi, in
`market/coordinates`) and moves this node a little. What others say of themselves is bounded, and
believed as far as it agrees with what is measured. Decides nothing about who trades with whom.
"""

from __future__ import annotations

from market.codec import decode, encode
from market.coordinates import believable, distance_us, known, outliers, update
from market.errors import CodecError
from market.terms import Coordinate
from node.ports import Link

PLACES_MAX = 4096  # peers whose place is remembered, those last heard of
NOTE = b"atlas/here"


class Atlas:
    """This node's map."""

    def __init__(self, link: Link, noted: bytes | None = None) -> None:
        """`noted` is where the node was when it last ran, as `note` gave it."""
        self._link = link
        self._places: dict[bytes, Coordinate] = {}
        self._refused = 0
        self.here = _read(noted)

    def hear(self, peer: bytes, coordinate: Coordinate) -> None:
        """A peer says where it is. A place that no honest node can be at is not remembered."""
        if not believable(coordinate):
            self._refused += 1
            return
        self._places.pop(peer, None)
        self._places[peer] = coordinate
        if len(self._places) > PLACES_MAX:
            del self._places[next(iter(self._places))]

    def place(self, peer: bytes) -> Coordinate | None:
        """Where a peer says it is."""
        return self._places.get(peer)

    def rtt_us(self) -> dict[bytes, int]:
        """Measured round trips, by peer."""
        return {i.peer: i.rtt_us for i in self._link.peers() if i.rtt_us is not None}

    def measure(self) -> None:
        """One look at every connected peer: move towards or away from it as its round trip says.

        A peer whose word disagrees with the measurement far more than the others' is passed over:
        each peer has one vote, so a liar needs company.
        """
        samples = {
            peer: (rtt_us, self._places.get(peer, Coordinate()))
            for peer, rtt_us in sorted(self.rtt_us().items())
        }
        errors = {
            peer: abs(distance_us(self.here, place) - rtt_us)
            for peer, (rtt_us, place) in samples.items()
            if known(place)
        }
        wrong = outliers(errors) if known(self.here) else frozenset()
        for peer, (rtt_us, place) in samples.items():
            if peer in wrong:
                self._refused += 1
            else:
                self.here = update(self.here, place, rtt_us, toward=peer)

    def note(self) -> bytes:
        """Where the node is, for its journal."""
        return encode(self.here)

    def statistics(self) -> dict[str, int]:
        """Counters for people and metrics."""
        return {
            "places": len(self._places),
            "refused": self._refused,
            "error_ppm": self.here.error_ppm,
        }


def _read(noted: bytes | None) -> Coordinate:
    if noted is None:
        return Coordinate()
    try:
        return decode(Coordinate, noted)
    except CodecError:
        return Coordinate()  # of another version; it is measured again in a minute
