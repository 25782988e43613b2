"""NVIDIA GPUs and their MIG slices, as the driver's own library (NVML) tells of them.

Looks and never sets. No driver, an old one that lacks a function, a GPU that cannot say how warm it
is and one that fell off the bus are all everyday outcomes here, not errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import pynvml
import structlog

from market.limits import UNITS_PER_PROVIDER
from market.units import MIB
from node.ports import Unit, UnitHealth

T = TypeVar("T")
log = structlog.get_logger("devices")

_VENDOR_WORDS: Final = frozenset({"NVIDIA", "GeForce", "Tesla", "Quadro", "Graphics", "GPU"})
_FAMILIES: Final = ("RTX", "GTX")
_GRADES: Final = frozenset({"Ti", "SUPER", "Super", "D"})
_BRAKES: Final = {  # nvmlClocksThrottleReason*
    0x08: "slowed down by the hardware",
    0x20: "too hot",
    0x40: "far too hot",
    0x80: "the power supply brakes it",
}
_NAME_BYTES_MAX = 64  # what an offer carries
_LOST = "the GPU has fallen off the bus; restart the machine"
_WORN = "the GPU has run out of spare memory rows; have it replaced"


@dataclass(frozen=True, slots=True)
class _Slot:
    """One unit and the driver's handles: `handle` of the unit, `board` of the GPU it is on."""

    unit: Unit
    handle: Any
    board: Any


class NvmlDevices:
    """Fills the `Devices` port with GPUs. Made by `find_gpus`."""

    def __init__(self, slots: tuple[_Slot, ...]) -> None:
        """The units never change while the node runs: a GPU that is lost stays, unhealthy."""
        self._slots = slots

    def units(self) -> tuple[Unit, ...]:
        """All rentable slots, by index: GPUs in the driver's order, each followed by its slices."""
        return tuple(slot.unit for slot in self._slots)

    def health(self) -> tuple[UnitHealth, ...]:
        """One look at each, by index. The load of a MIG slice cannot be read."""
        return tuple(_look(slot) for slot in self._slots)

    def close(self) -> None:
        """Let go of the driver."""
        _try(pynvml.nvmlShutdown)


def find_gpus() -> NvmlDevices | None:
    """The GPUs that the driver finds; None if there is no driver, or no GPU that can be rented."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as problem:
        log.info("no NVIDIA driver", problem=str(problem))
        return None
    driver = str(_try(pynvml.nvmlSystemGetDriverVersion) or "")[:_NAME_BYTES_MAX]
    cuda = _cuda(_try(pynvml.nvmlSystemGetCudaDriverVersion_v2) or 0)
    slots: list[_Slot] = []
    for number in range(_try(pynvml.nvmlDeviceGetCount) or 0):
        board = _try(pynvml.nvmlDeviceGetHandleByIndex, number)
        if board is None:
            log.warning("a GPU cannot be reached and is not rented out", gpu=number)
            continue
        for handle in _rentable(board):
            unit = _unit(len(slots), handle, board, cuda, driver)
            if unit is not None and len(slots) < UNITS_PER_PROVIDER:
                slots.append(_Slot(unit, handle, board))
    if not slots:
        _try(pynvml.nvmlShutdown)
        return None
    return NvmlDevices(tuple(slots))


def model_name(name: str) -> str:
    """The driver's product name as people ask for it.

    `NVIDIA GeForce RTX 4090` is `RTX4090`, `NVIDIA H100 80GB HBM3` is `H100 80GB HBM3`: words that
    tell variants apart stay, since a demand for an `H100` takes any name that has that word.
    """
    found: list[str] = []
    for word in re.split(r"[\s\-_]+", name.strip()):
        last = found[-1] if found else ""
        if not word or word in _VENDOR_WORDS:
            continue
        if (last in _FAMILIES and word[0].isdigit()) or (
            last.startswith(_FAMILIES) and word in _GRADES
        ):
            found[-1] = last + word
        else:
            found.append(word)
    return " ".join(found)[:_NAME_BYTES_MAX] or "GPU"


def _rentable(board: Any) -> list[Any]:
    """The GPU itself, or its slices when it is divided: then the whole cannot be used."""
    mode = _try(pynvml.nvmlDeviceGetMigMode, board)
    if mode is None or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return [board]
    count = _try(pynvml.nvmlDeviceGetMaxMigDeviceCount, board) or 0
    slices = [_try(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, board, i) for i in range(count)]
    return [handle for handle in slices if handle is not None]


def _unit(index: int, handle: Any, board: Any, cuda: int, driver: str) -> Unit | None:
    """A unit needs a UUID and memory: without them it can be neither named nor sold."""
    uuid = _try(pynvml.nvmlDeviceGetUUID, handle)
    memory = _try(pynvml.nvmlDeviceGetMemoryInfo, handle)
    if not uuid or memory is None:
        log.warning("a GPU does not say what it is and is not rented out", gpu=str(uuid or ""))
        return None
    name = model_name(str(_try(pynvml.nvmlDeviceGetName, board) or ""))
    if handle is not board:
        said = re.search(r"MIG\s+(\S+)", str(_try(pynvml.nvmlDeviceGetName, handle) or ""))
        profile = said[1] if said else f"{round(memory.total / MIB / 1024)}gb"
        name = f"{name} MIG {profile}"[:_NAME_BYTES_MAX]
    return Unit(
        index=index,
        name=name,
        uuid=str(uuid),
        ram_mib=memory.total // MIB,
        declared=False,
        cuda_vers=cuda,
        driver_version=driver,
        pcie_gen=_try(pynvml.nvmlDeviceGetMaxPcieLinkGeneration, board) or 0,
        pcie_lanes=_try(pynvml.nvmlDeviceGetMaxPcieLinkWidth, board) or 0,
    )


def _look(slot: _Slot) -> UnitHealth:
    index = slot.unit.index
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(slot.handle)
        used_mib = memory.used // MIB
    except pynvml.NVMLError as problem:
        lost = isinstance(problem, pynvml.NVMLError_GpuIsLost)
        reason = _LOST if lost else f"the driver says: {problem}"
        return UnitHealth(index, False, reason, None, None, None, None)
    whole = slot.handle is slot.board
    load = _try(pynvml.nvmlDeviceGetUtilizationRates, slot.board) if whole else None
    heat = _try(pynvml.nvmlDeviceGetTemperature, slot.board, pynvml.NVML_TEMPERATURE_GPU)
    power_mw = _try(pynvml.nvmlDeviceGetPowerUsage, slot.board)
    rows = _try(pynvml.nvmlDeviceGetRemappedRows, slot.board)
    running = _try(pynvml.nvmlDeviceGetComputeRunningProcesses, slot.handle)
    worn = rows is not None and bool(rows[3])
    return UnitHealth(
        index=index,
        healthy=not worn,
        reason=_WORN if worn else "",
        utilisation_ppm=None if load is None else int(load.gpu) * 10_000,
        memory_used_mib=int(used_mib),
        temperature_c=None if heat is None else int(heat),
        power_w=None if power_mw is None else round(power_mw / 1000),
        processes=None if running is None else len(running),
        throttled=_throttled(_try(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, slot.board)),
    )


def _throttled(reasons: int | None) -> str:
    """The reasons that mean that something is wrong; a power limit set by the owner does not."""
    return ", ".join(word for bit, word in _BRAKES.items() if (reasons or 0) & bit)


def _cuda(version: int) -> int:
    """The driver's 12040 is the market's 1204."""
    return version // 1000 * 100 + version % 1000 // 10


def _try(ask: Callable[..., T], *values: Any) -> T | None:
    """What the driver answers, or None where it cannot say."""
    try:
        return ask(*values)
    except pynvml.NVMLError:
        return None
