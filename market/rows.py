"""Rows: an offer as numbers of the columns, and a demand's any-of list as tables over them.

The one place that knows both an offer's fields and the columns' order. Knows no book.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator

import numpy as np

from market import columns as c
from market import scan
from market.best import mixed
from market.columns import Row
from market.models import takes
from market.names import Names
from market.terms import Accelerator, Demand, Offer
from market.throughput import rating, sheet
from market.units import PPM

_U32 = 2**32 - 1
Reading = tuple[tuple[c.Numbers, ...], c.Numbers, c.Numbers, int | None, int | None]
"""Units by model, one array per choice; the least and most by group; the only group and count."""


def offer_key(offer: Offer) -> int:
    """64 bits that name an offer, for ties."""
    name = hashlib.blake2b(offer.peer + offer.offer_id, digest_size=8, person=b"offer")
    return int.from_bytes(name.digest(), "big")


def demand_tie(demand: Demand) -> int:
    """64 bits of a demand's id, for ties."""
    return _demand_tie(demand.demand_id)


@functools.lru_cache(maxsize=4096)
def _demand_tie(demand_id: bytes) -> int:
    name = hashlib.blake2b(demand_id, digest_size=8, person=b"demand")
    return int.from_bytes(name.digest(), "big")


def tie(demand: Demand, offer: Offer) -> int:
    """The tie-break of an offer for a demand: the same on every node, unknown in advance."""
    return mixed(offer_key(offer), demand_tie(demand))


def group_of(offer: Offer) -> int:
    name = sheet(offer.gpu_name)
    return scan.GROUPS[name] if name else 0


def image_bit(image: bytes) -> int:
    return 1 << (image[0] & 63)


def row_of(offer: Offer, reliability_ppm: int, model: int, place: int, peer: int) -> Row:
    images = 0
    for image in offer.cached_images:
        images |= image_bit(image)
    o, at = offer, offer.coordinate
    flags = (
        (c.VERIFIED if o.verified else 0)
        | (0 if o.declared else c.REAL)
        | (0 if o.preemptible else c.STEADY)
        | (c.EGRESS if o.egress else 0)
    )
    more = (
        o.num_gpus, o.gpu_ram_mib, o.cuda_vers, o.cpu_cores, o.cpu_ram_mib, o.disk_space_mib,
        o.max_duration_s, min(_U32, o.expires_at_s), min(PPM, reliability_ppm), rating_score(o),
        max(1, o.inet_up_kbps), max(1, o.inet_down_kbps),
    )  # fmt: skip
    less = (o.queue_wait_s, o.start_up_ms, o.min_duration_s)
    x, y = at.x_us + c.ORIGIN, at.y_us + c.ORIGIN
    rest = (x, y, at.height_us, at.error_ppm, model, place, peer, flags)
    return Row(
        group=group_of(o),
        price=float(o.price_per_hour),
        key=offer_key(o),
        images=images,
        numbers=(*more, *less, *rest),
    )


def rating_score(offer: Offer) -> int:
    """The certified score of the offer's units that counts; the same for every kind of work."""
    from_table = rating(scan.ANY_WORK, offer.gpu_name)
    return from_table.score(offer.dlperf_milli)


def read_choices(accelerators: tuple[Accelerator, ...], models: Names[str]) -> Reading:
    """A demand's any-of list over the names in use; each choice but the first is smaller."""
    least = np.zeros(len(scan.GROUPS) + 1, np.uint32)
    most = np.zeros(len(scan.GROUPS) + 1, np.uint32)
    levels = [np.zeros(max(1, len(models)), np.uint32)]
    for number, name in models:
        counts = falling(max(1, a.count) for a in accelerators if takes(a.name, name))
        for level, count in enumerate(counts):
            if level == len(levels):
                levels.append(np.zeros_like(levels[0]))
            levels[level][number] = count
        if counts:
            known = sheet(name)
            group = scan.GROUPS[known] if known else 0
            least[group] = min(int(least[group]) or counts[-1], counts[-1])
            most[group] = max(int(most[group]), counts[0])
    groups = [int(group) for group in np.flatnonzero(most)]
    sizes = {*most[groups].tolist(), *least[groups].tolist()}
    only = groups[0] if len(groups) == 1 else None
    return tuple(levels), least, most, only, sizes.pop() if len(sizes) == 1 else None


def falling(counts: Iterator[int]) -> list[int]:
    """The counts that are smaller than all before: a larger later choice never fits first."""
    kept: list[int] = []
    for count in counts:
        if not kept or count < kept[-1]:
            kept.append(count)
    return kept
