"""Lexicon: the names in a book as numbers, and a demand read against them.

What a demand's accelerators and regions mean depends on the names in use; the reading is kept while
they stay the same. Knows columns, not which offers are live.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from market import scan
from market.columns import Row
from market.cost import smallest_count, weigh
from market.models import within
from market.names import Names
from market.rows import Reading, demand_tie, image_bit, read_choices, row_of
from market.terms import Accelerator, Demand, Offer

MODELS_MAX = 1024  # distinct GPU names: fifteen times those that exist; each is compared per demand
PLACES_MAX = 4096  # distinct places: every country and cloud region many times over
SHAPES_MAX = 256  # demands' accelerator lists and regions whose reading is remembered


@dataclass(slots=True)
class _Shapes:
    """What was worked out for accelerator lists and regions, while the names stay the same."""

    version: tuple[int, int] = (-1, -1)
    choices: dict[tuple[Accelerator, ...], Reading] = field(default_factory=dict)
    regions: dict[tuple[str, ...], tuple[scan.Flags, int]] = field(default_factory=dict)


class Lexicon:
    """The names of GPU models, places and peers; bounded, so that a flood of names is refused."""

    def __init__(self, peers_max: int) -> None:
        """Empty."""
        self._models: Names[str] = Names(MODELS_MAX)
        self._places: Names[str] = Names(PLACES_MAX)
        self._peers: Names[bytes] = Names(peers_max)
        self._shapes = _Shapes()

    @property
    def models(self) -> int:
        """How many GPU names are in use."""
        return sum(1 for _ in self._models)

    def row(self, offer: Offer, reliability_ppm: int) -> Row | None:
        """The offer's numbers, its names taken; None if a table of names is full."""
        model = self._models.take(offer.gpu_name)
        if model is None:
            return None
        place = self._places.take(offer.geolocation)
        if place is None:
            self._models.drop(offer.gpu_name)
            return None
        peer = self._peers.take(offer.peer)
        assert peer is not None, "there are never more peers than offers"
        return row_of(offer, reliability_ppm, model, place, peer)

    def drop(self, offer: Offer) -> None:
        """Give the offer's names back."""
        self._models.drop(offer.gpu_name)
        self._places.drop(offer.geolocation)
        self._peers.drop(offer.peer)

    def query(self, demand: Demand, now: float, rtt_us: Mapping[bytes, int]) -> scan.Query:
        """The demand made ready for the columns."""
        choices, least, most, group, count = self._choices(demand.requirements.accelerators)
        regions, region_bits = self._regions(demand.requirements.regions)
        peers = [self._peers.number(peer) for peer in demand.exclude]
        measured = {}
        for peer, microseconds in rtt_us.items():
            number = self._peers.number(peer)
            if number is not None:
                measured[number] = microseconds
        return scan.Query(
            demand=demand,
            weights=weigh(demand),
            smallest=smallest_count(demand),
            choices=choices,
            least=least,
            most=most,
            group=group,
            count=count,
            regions=regions if demand.requirements.regions else None,
            region_bits=region_bits,
            exclude=tuple(number for number in peers if number is not None),
            rtt_us=measured,
            image_bit=image_bit(demand.image) if demand.image_bytes else 0,
            good=scan.needed_flags(demand),
            floor=scan.floor(demand, now),
            tie=demand_tie(demand),
            now=now,
        )

    def _fresh_shapes(self) -> _Shapes:
        version = (self._models.version, self._places.version)
        if self._shapes.version != version or len(self._shapes.choices) > SHAPES_MAX:
            self._shapes = _Shapes(version)
        if len(self._shapes.regions) > SHAPES_MAX:
            self._shapes = _Shapes(version)
        return self._shapes

    def _choices(self, accelerators: tuple[Accelerator, ...]) -> Reading:
        shapes = self._fresh_shapes()
        found = shapes.choices.get(accelerators)
        if found is None:
            found = read_choices(accelerators, self._models)
            shapes.choices[accelerators] = found
        return found

    def _regions(self, regions: tuple[str, ...]) -> tuple[scan.Flags, int]:
        shapes = self._fresh_shapes()
        found = shapes.regions.get(regions)
        if found is None:
            inside = np.zeros(max(1, len(self._places)), np.bool_)
            bits = 0
            for number, place in self._places:
                if any(within(region, place) for region in regions):
                    inside[number] = True
                    bits |= 1 << (number & 63)
            found = (inside, bits)
            shapes.regions[regions] = found
        return found
