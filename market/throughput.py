"""Throughput: how fast a GPU model is at a kind of work, in thousandths of the reference GPU.

Facts of data sheets and one rule; knows no offer, price or measurement. Sources: the makers' public
data sheets. Training is bound by arithmetic and memory together: the geometric mean of dense FP16
tensor throughput and memory bandwidth, both relative to the reference. Inference reads all weights
for each token: memory bandwidth. Batch work is a mix of both: the mean of the two. This is about
mixed precision: in FP32, as Gavel measured it (OSDI 2020), the gaps between GPU generations before
and after tensor cores are half as wide. A certificate corrects the table downwards only.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from market.models import CPU, words
from market.terms import Workload

REFERENCE = "RTX 3090"
SPEED_UNKNOWN_MILLI = 250  # a unit nobody measured, of a model nobody knows: an old or small GPU
SPEED_CPU_MILLI = 20  # a CPU slot nobody measured
SPEED_MAX_MILLI = 20_000  # no single GPU is faster; a larger claim is not believed

# name: (dense FP16 tensor TFLOPS, or FP16/FP32 where there are no tensor cores; memory GB/s)
_SHEETS: dict[str, tuple[float, int]] = {
    "K80": (4.4, 240), "P4": (5.5, 192), "P40": (11.8, 346), "P100": (18.7, 732),
    "GTX 1080 Ti": (11.3, 484), "T4": (65, 320), "V100": (125, 900),
    "RTX 2080 Ti": (107.6, 616), "RTX 2080": (80.5, 448), "RTX 2070": (59.7, 448),
    "RTX 3060": (51, 360), "RTX 3060 Ti": (65, 448), "RTX 3070": (81, 448),
    "RTX 3070 Ti": (87, 608), "RTX 3080": (119, 760), "RTX 3080 Ti": (136, 912),
    "RTX 3090": (142, 936), "RTX 3090 Ti": (160, 1008),
    "RTX 4060": (60, 272), "RTX 4060 Ti": (88, 288), "RTX 4070": (117, 504),
    "RTX 4070 Ti": (160, 504), "RTX 4080": (195, 717), "RTX 4090": (330, 1008),
    "RTX 5060 Ti": (95, 448), "RTX 5070": (123, 672), "RTX 5070 Ti": (176, 896),
    "RTX 5080": (225, 960), "RTX 5090": (419, 1792),
    "A2": (18, 200), "A10G": (70, 600), "A10": (125, 600), "A16": (36, 200), "A30": (165, 933),
    "A40": (150, 696), "A4000": (77, 448), "A4500": (95, 640), "A5000": (111, 768),
    "A6000": (155, 768), "RTX 4000 Ada": (107, 360), "RTX 5000 Ada": (261, 576),
    "RTX 6000 Ada": (364, 960), "RTX PRO 6000": (504, 1792),
    "L4": (121, 300), "L40": (181, 864), "L40S": (362, 864),
    "A100": (312, 1555), "A100 80GB": (312, 2039), "A800": (312, 2039),
    "H100": (756, 2000), "H100 NVL": (835, 3900), "H100 SXM": (989, 3350),
    "H100 HBM3": (989, 3350), "H800": (756, 2000), "H200": (989, 4800), "GH200": (989, 4000),
    "B100": (1750, 8000), "B200": (2250, 8000), "B300": (2250, 8000),
    "MI100": (184, 1229), "MI210": (181, 1638), "MI250X": (383, 3277), "MI300X": (1307, 5300),
}  # fmt: skip


@functools.lru_cache(maxsize=8192)
def sheet(gpu_name: str) -> str | None:
    """The entry of the table that a GPU's name means: the one that shares the most words."""
    has = words(gpu_name)
    if "MIG" in has:
        return None
    fitting = [name for name in _SHEETS if words(name) <= has]
    return max(fitting, key=lambda name: (len(words(name)), name), default=None)


@functools.lru_cache(maxsize=8192)
def speed_milli(workload: Workload, gpu_name: str) -> int | None:
    """The model's nominal speed at this work, or None for a model that the table does not know."""
    name = sheet(gpu_name)
    if name is None:
        return None
    tflops, bandwidth = _SHEETS[name]
    reference_tflops, reference_bandwidth = _SHEETS[REFERENCE]
    compute = round(tflops * 1_000_000 / reference_tflops)
    memory = round(bandwidth * 1_000_000 / reference_bandwidth)
    mean = math.isqrt(compute * memory)
    match workload:
        case Workload.TRAINING:
            return mean // 1000
        case Workload.INFERENCE:
            return memory // 1000
        case Workload.BATCH:
            return (mean + memory) // 2000


@dataclass(frozen=True, slots=True)
class Rating:
    """What is known of a model at one kind of work, in thousandths of the reference GPU.

    A unit certified at `certificate` or more does `nominal`, with less, proportionally less; one
    that was never measured counts as certified at `assumed`.
    """

    nominal: float
    certificate: int
    assumed: int

    def score(self, dlperf_milli: int) -> int:
        """The certified score that counts, from 1 to `certificate`, for a unit's own (0: none)."""
        return min(dlperf_milli or self.assumed, self.certificate)

    def speed_milli(self, score: int) -> float:
        """The speed at a score."""
        return self.nominal * (score / self.certificate)


@functools.lru_cache(maxsize=8192)
def rating(workload: Workload, gpu_name: str) -> Rating:
    """The rating of a model; of one the table does not know, the certificate is the speed.

    A certificate never lifts a known model above its data sheet, nor anything above
    SPEED_MAX_MILLI: it is the owner's word.
    """
    nominal = speed_milli(workload, gpu_name)
    certificate = speed_milli(Workload.TRAINING, gpu_name)
    if nominal is None or certificate is None:
        assumed = SPEED_CPU_MILLI if CPU in words(gpu_name) else SPEED_UNKNOWN_MILLI
        return Rating(float(SPEED_MAX_MILLI), SPEED_MAX_MILLI, assumed)
    return Rating(float(nominal), certificate, certificate)


def table() -> tuple[str, ...]:
    """The models of the table, in its order."""
    return tuple(_SHEETS)
