"""The unit file and what the node tells systemd, against a socket that listens as systemd does."""

from __future__ import annotations

import configparser
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import trio

from node.cli import supervisor
from node.cli.unit import unit_text
from tests.cli.test_cli import Machine


def _unit() -> dict[str, dict[str, str]]:
    read = configparser.RawConfigParser(strict=False)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read_string(unit_text())
    return {name: dict(read[name]) for name in read.sections()}


def test_the_unit_notifies_is_watched_and_leaves_jobs_alone() -> None:
    service = _unit()["Service"]
    assert service["Type"] == "notify"
    assert service["KillMode"] == "process"  # jobs outlive a restart
    assert int(service["WatchdogSec"]) > 0
    assert service["ExecStart"].split()[1] == "up"
    assert Path(service["ExecStart"].split()[0]).is_absolute()
    namespaces = {"ProtectHome", "ProtectSystem", "PrivateTmp", "ProtectKernelModules",
                  "ProtectKernelLogs", "ProtectControlGroups", "PrivateDevices"}  # fmt: skip
    assert not namespaces & service.keys()  # each would hide the jobs' mounts from the next start
    assert "ProtectHostname" not in service  # jobs would inherit it, and runc gives them names


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this is no systemd machine")
def test_systemd_finds_no_fault_with_it(tmp_path: Path) -> None:
    place = tmp_path / "gridsouk.service"
    place.write_text(unit_text())
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(place)], capture_output=True, text=True
    )
    mine = [line for line in told.stderr.splitlines() if str(place) in line]
    assert mine == []


def test_it_is_written_and_removed(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    units = tmp_path / "units"
    assert machine.souk("service", "install", str(units)).code == 2  # no such directory
    units.mkdir()
    said = machine.souk("service", "install", str(units))
    assert (said.code, said.out) == (0, f"{units}/gridsouk.service\n")
    assert machine.souk("service", "install", str(units)).code == 0  # again
    assert machine.souk("service", "uninstall", str(units), "--json").code == 0
    assert machine.souk("service", "uninstall", str(units)).code == 1
    (units / "gridsouk.service").write_text("[Unit]\nDescription=somebody else's\n")
    said = machine.souk("service", "install", str(units))
    assert (said.code, "is not ours" in said.err) == (1, True)


async def test_it_tells_systemd_that_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert supervisor.notify("READY=1") is False  # nobody supervises
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert supervisor.notify("READY=1", "STATUS=up") is True
        assert systemd.recv(100) == b"READY=1\nSTATUS=up"
        assert supervisor.watchdog_s() is None
        await supervisor.keep_watchdog()  # returns: nobody watches
        monkeypatch.setenv("WATCHDOG_USEC", "30000")
        with trio.move_on_after(0.2):
            await supervisor.keep_watchdog()
        systemd.setblocking(False)
        assert systemd.recv(100) == systemd.recv(100) == b"WATCHDOG=1"
        monkeypatch.setenv("WATCHDOG_PID", "1")
        assert supervisor.watchdog_s() is None  # meant for another process
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert supervisor.notify("READY=1") is False
