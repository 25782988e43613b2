"""Models: what GPU and place names mean, so that `H100` takes an `NVIDIA H100 80GB HBM3`.

Pure text; knows no offer and no price. A name is a set of words: a wanted name takes an offered one
that has all of its words. Vendor words say nothing, and `RTX 3080` never takes an `RTX 3080 Ti`.
"""

from __future__ import annotations

import functools
import re

ANY = "*"
CPU = "CPU"

_VENDORS = frozenset({"NVIDIA", "GEFORCE", "TESLA", "QUADRO", "AMD", "RADEON", "INSTINCT", "GPU"})
_SUFFIXES = frozenset({"TI", "SUPER", "ADA", "PRO", "D", "MAX", "LAPTOP", "MOBILE"})
_FAMILIES = frozenset({"RTX", "GTX", "RX", "RTXPRO"})
_WORD = re.compile(r"[A-Z0-9.]+")
_SXM = re.compile(r"SXM\d")
_PLACE = re.compile(r"[^\W_]+")

# The members of the European Union, by ISO 3166 code: where `region: EU` keeps data. The Union is
# the one group of countries that people name as a region and that has a legal boundary.
EUROPEAN_UNION = frozenset(
    re.findall("..", "ATBEBGCYCZDEDKEEESFIFRGRHRHUIEITLTLULVMTNLPLPTROSESISK")
)


@functools.lru_cache(maxsize=8192)
def words(name: str) -> frozenset[str]:
    """The words of a GPU's name: `NVIDIA A100-SXM4-80GB` is {A100, SXM, 80GB}."""
    found: list[str] = []
    for word in _WORD.findall(name.upper()):
        if word in _VENDORS:
            continue
        if _SXM.fullmatch(word):
            word = "SXM"
        last = found[-1] if found else ""
        if last in _FAMILIES and (word == "PRO" or word[:1].isdigit()):
            found[-1] = last + word
        elif last == "RTX" and re.fullmatch(r"A\d+", word):
            found[-1] = word  # an RTX A6000 is asked for as A6000
        elif found and word in _SUFFIXES:
            found[-1] = last + word
        else:
            found.append(word)
    return frozenset(found)


@functools.lru_cache(maxsize=65536)
def takes(wanted: str, offered: str) -> bool:
    """Whether a demand for the model `wanted` is met by a unit of the model `offered`.

    `*` takes any GPU, `CPU` only a unit without one. A slice (MIG) is taken only by its own name.
    """
    has = words(offered)
    if wanted == ANY:
        return CPU not in has and bool(has)
    wants = words(wanted)
    if not wants or ("MIG" in has and "MIG" not in wants):
        return False
    return wants <= has


@functools.lru_cache(maxsize=65536)
def within(region: str, geolocation: str) -> bool:
    """Whether a place lies in a region: `US` and `California` both hold `California, US`."""
    wants = frozenset(_PLACE.findall(region.upper()))
    has = frozenset(_PLACE.findall(geolocation.upper()))
    if wants == {"EU"} and has & EUROPEAN_UNION:
        return True
    return bool(wants) and wants <= has
