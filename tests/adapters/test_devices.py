"""Declared units, and GPUs as a driver tells of them: a stand-in of its library, built here."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from market.errors import SpecError
from node.adapters.devices.declared import Declared, DeclaredDevices
from node.adapters.devices.discover import NoDevices, discover
from node.adapters.devices.nvml import NvmlDevices, find_gpus, model_name
from node.ports import Unit, UnitHealth

SetState = Callable[..., None]
ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).with_name("fakenvml.c")
MACHINE = ("-1 driver 550.54.15", "-1 cuda 12040")
RTX4090 = (
    "0 name NVIDIA GeForce RTX 4090",
    "0 uuid GPU-aaaa",
    "0 memory 24564",
    "0 used 1000",
    "0 load 97",
    "0 heat 71",
    "0 power 412600",
)
H100 = (
    "1 name NVIDIA H100 80GB HBM3",
    "1 uuid GPU-bbbb",
    "1 memory 81559",
    "1 mig 1",
    "1 slice0.name NVIDIA H100 80GB HBM3 MIG 3g.40gb",
    "1 slice0.uuid MIG-0000",
    "1 slice0.memory 40448",
    "1 slice0.used 12",
    "1 slice2.uuid MIG-2222",
    "1 slice2.memory 20096",
    "1 load 55",
    "1 heat 40",
    "1 power 80000",
)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Load the stand-in first: asked for the name it bears, the loader gives it again."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the stand-in of the driver needs a C compiler: install gcc"
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library, SOURCE],
        check=True,
    )
    ctypes.CDLL(str(library))


@pytest.fixture
def set_state(driver: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetState:
    path = tmp_path / "state"
    monkeypatch.setenv("FAKE_NVML_STATE", str(path))
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})

    def write(*lines: str) -> None:
        path.write_text("\n".join(lines) + "\n")

    return write


def found() -> NvmlDevices:
    devices = find_gpus()
    assert devices is not None
    return devices


def test_a_gpu_is_a_unit(set_state: SetState) -> None:
    set_state(*MACHINE, "-1 count 1", *RTX4090)
    devices = found()
    assert devices.units() == (
        Unit(0, "RTX4090", "GPU-aaaa", 24564, False, 1204, "550.54.15"),
    )  # fmt: skip
    assert devices.health() == (UnitHealth(0, True, "", 970_000, 1000, 71, 413),)
    devices.close()


def test_a_divided_gpu_is_sold_by_the_slice(set_state: SetState) -> None:
    set_state(*MACHINE, "-1 count 2", *RTX4090, *H100)
    devices = found()
    assert [(unit.index, unit.name, unit.uuid, unit.ram_mib) for unit in devices.units()] == [
        (0, "RTX4090", "GPU-aaaa", 24564),
        (1, "H100 80GB HBM3 MIG 3g.40gb", "MIG-0000", 40448),
        (2, "H100 80GB HBM3 MIG 20gb", "MIG-2222", 20096),
    ]
    assert devices.health()[1:] == (
        UnitHealth(1, True, "", None, 12, 40, 80),
        UnitHealth(2, True, "", None, 0, 40, 80),
    )


def test_an_undivided_gpu_without_sensors_is_healthy(set_state: SetState) -> None:
    set_state("-1 count 1", "0 name Tesla K80", "0 uuid GPU-cccc", "0 memory 11441", "0 mig 0")
    devices = found()
    assert devices.units() == (Unit(0, "K80", "GPU-cccc", 11441, False, 0, ""),)
    assert devices.health() == (UnitHealth(0, True, "", None, 0, None, None),)


def test_a_lost_gpu_stays_a_unit_and_is_not_healthy(set_state: SetState) -> None:
    set_state(*MACHINE, "-1 count 1", *RTX4090)
    devices = found()
    set_state(*MACHINE, "-1 count 1", *RTX4090, "0 lost 1")
    (health,) = devices.health()
    assert not health.healthy
    assert "fallen off the bus" in health.reason
    assert len(devices.units()) == 1
    set_state(*MACHINE, "-1 count 1", *RTX4090, "0 heat 99")
    assert devices.health() == (UnitHealth(0, True, "", 970_000, 1000, 99, 413),)


def test_a_gpu_says_what_runs_on_it_and_what_slows_it_down(set_state: SetState) -> None:
    more = ("0 processes 2", "0 throttle 100", "0 pcie 4", "0 lanes 16")  # 100: 0x64
    set_state(*MACHINE, "-1 count 1", *RTX4090, *more)
    devices = found()
    (unit,) = devices.units()
    assert (unit.pcie_gen, unit.pcie_lanes) == (4, 16)
    (health,) = devices.health()
    assert (health.processes, health.throttled) == (2, "too hot, far too hot")
    set_state(*MACHINE, "-1 count 1", *RTX4090, "0 processes 0", "0 throttle 4")
    (health,) = devices.health()
    assert (health.processes, health.throttled) == (0, ""), "a power limit is its owner's wish"


def test_what_cannot_be_named_is_not_sold(set_state: SetState) -> None:
    set_state("-1 count 3", *RTX4090, "1 lost 1", "2 name NVIDIA L4", "2 memory 23034")
    assert [unit.uuid for unit in found().units()] == ["GPU-aaaa"]


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED, 999]
)
def test_without_a_driver_there_are_no_units(set_state: SetState, code: int) -> None:
    set_state(f"-1 init {code}", "-1 count 1", *RTX4090)
    assert find_gpus() is None
    devices = discover(None)
    assert isinstance(devices, NoDevices)
    assert (devices.units(), devices.health()) == ((), ())


def test_a_machine_without_the_library_has_no_gpus() -> None:
    """In a process of its own, whose loader looks for the library under a name nobody has."""
    program = """
import ctypes, pynvml
real = ctypes.CDLL
pynvml.CDLL = lambda name: real("libnobody-has-this.so.1")
from node.adapters.devices.discover import discover
print(discover(None).units())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT
    )
    assert ended.stdout.splitlines()[-1] == "()", ended.stderr


def test_a_declaration_wins_over_the_driver(set_state: SetState) -> None:
    set_state(*MACHINE, "-1 count 1", *RTX4090)
    assert discover(Declared(2)).units() == (
        Unit(0, "CPU", "", 0, declared=True),
        Unit(1, "CPU", "", 0, declared=True),
    )
    assert [unit.uuid for unit in discover(None).units()] == ["GPU-aaaa"]


def test_declared_units_are_healthy_and_unmeasured() -> None:
    devices = DeclaredDevices(Declared(1, "H100", 81_920))
    assert devices.units() == (Unit(0, "H100", "", 81_920, declared=True),)
    assert devices.health() == (UnitHealth(0, True, "", None, None, None, None),)


@pytest.mark.parametrize(
    ("count", "name", "ram_mib"),
    [(0, "CPU", 0), (257, "CPU", 0), (1, "", 0), (1, "ü" * 33, 0), (1, "CPU", -1), (1, "C", 2**32)],
)
def test_what_no_offer_carries_is_not_declared(count: int, name: str, ram_mib: int) -> None:
    with pytest.raises(SpecError):
        Declared(count, name, ram_mib)


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX4070TiSUPER"),
        ("NVIDIA GeForce RTX 3080 Laptop GPU", "RTX3080 Laptop"),
        ("GeForce GTX 1080 Ti", "GTX1080Ti"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB HBM3"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM4 80GB"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla V100-SXM2-16GB", "V100 SXM2 16GB"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX6000 Ada Generation"),
        ("", "GPU"),
        ("x" * 500, "x" * 64),
    ],
)
def test_a_model_is_called_as_people_ask_for_it(product: str, name: str) -> None:
    assert model_name(product) == name


def numbered(file: Path) -> tuple[list[tuple[int, str]], dict[int, bool]]:
    """(number, UUID) of each unit of a node that starts now, and which of them are well."""
    devices = discover(None, file)
    found = [(unit.index, unit.uuid) for unit in devices.units()]
    return found, {health.index: health.healthy for health in devices.health()}


def test_a_gpu_keeps_its_number_while_another_is_lost(set_state: SetState, tmp_path: Path) -> None:
    file, two = tmp_path / "units.json", ("1 name NVIDIA L4", "1 uuid GPU-bbbb", "1 memory 23034")
    both = [(0, "GPU-aaaa"), (1, "GPU-bbbb")]
    set_state("-1 count 2", *RTX4090, *two)
    assert numbered(file) == (both, {0: True, 1: True})
    set_state("-1 count 2", *RTX4090, *two, "0 lost 1")
    assert numbered(file) == (both, {0: False, 1: True})
    set_state("-1 init 999")
    assert numbered(file) == (both, {0: False, 1: False})
    third = ("2 name NVIDIA L4", "2 uuid GPU-cccc", "2 memory 23034")
    set_state("-1 count 3", *RTX4090, *two, *third)
    assert numbered(file) == ([*both, (2, "GPU-cccc")], dict.fromkeys(range(3), True))


@pytest.mark.parametrize("text", ["", "[1]", "{}", '[{"index": 0}]', "\0"])
def test_a_broken_file_of_numbers_is_begun_anew(
    text: str, set_state: SetState, tmp_path: Path
) -> None:
    file = tmp_path / "units.json"
    file.write_text(text)
    set_state("-1 count 1", *RTX4090)
    assert numbered(file) == ([(0, "GPU-aaaa")], {0: True})
    assert numbered(file) == ([(0, "GPU-aaaa")], {0: True})


def test_a_machine_without_gpus_has_no_file_of_numbers(set_state: SetState, tmp_path: Path) -> None:
    set_state("-1 init 999")
    assert numbered(tmp_path / "units.json") == ([], {})
    assert not (tmp_path / "units.json").exists()
