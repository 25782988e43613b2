"""What a machine must be to run strangers' code, and how a lack of it is said."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from market.errors import SandboxError
from node.adapters.oci import bundle, doctor, preflight, tun
from node.adapters.oci.doctor import Attempt
from node.adapters.oci.runtime import OciRuntime, need
from node.adapters.oci.settings import OciSettings
from node.ports import GANG_NETWORK, Check
from tests.adapters.sandbox.harness import Driver


def failed(checks: tuple[Check, ...]) -> dict[str, Check]:
    """Those that keep a node from selling, by name; each says what to do."""
    found = {check.name: check for check in checks if check.critical and not check.ok}
    assert all(check.sentence and check.fix for check in found.values())
    return found


@pytest.mark.sandbox
async def test_this_machine_is_fit(driver: Driver) -> None:
    """What the probe says of the other sandboxes is in test_escape."""
    checks = await driver.sandbox.preflight()
    assert failed(checks) == {}
    names = [check.name for check in checks]
    assert {"root", "control groups", "seccomp", "disk quota", GANG_NETWORK} <= set(names)
    assert sum(name.startswith("escape ") for name in names) == len(doctor.CLASSES) - 1
    assert await driver.sandbox.works() == ()


@pytest.mark.sandbox
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make an interface")
def test_a_machine_without_tun_sells_all_but_gangs(tmp_path: Path) -> None:
    names = {name for _, name in socket.if_nameindex()}
    assert tun.check().ok
    assert {name for _, name in socket.if_nameindex()} == names, "it was tried elsewhere"
    (tmp_path / "tun").touch()
    for control in (tmp_path / "nothing", tmp_path / "tun"):
        check = tun.check(str(control))
        assert (check.name, check.ok, check.critical) == (GANG_NETWORK, False, False)
        assert "gangs are not answered" in check.sentence
        assert "modprobe tun" in check.fix


async def test_a_runtime_that_is_not_there_is_named(tmp_path: Path) -> None:
    checks = await OciRuntime(OciSettings(tmp_path, runtime="no-such-runtime")).checks()
    assert "no-such-runtime is not installed" in failed(checks)["runtime"].sentence


async def test_gvisor_is_refused_because_it_cannot_be_verified(tmp_path: Path) -> None:
    settings = OciSettings(tmp_path, runtime="/opt/runsc")
    with pytest.raises(SandboxError, match="cannot be verified") as caught:
        need(settings)
    assert "runc" in caught.value.hint
    other_name = tmp_path / "gvisor"  # what it is called does not matter
    other_name.write_text("#!/bin/sh\necho runsc version 0.0~20221219.0\n")
    other_name.chmod(0o755)
    checks = await OciRuntime(OciSettings(tmp_path, runtime=str(other_name))).checks()
    assert "cannot be verified" in failed(checks)["runtime"].sentence


def test_what_a_job_may_not_write_to_is_no_mask_that_takes_it() -> None:
    """A masked file is /dev/null, and to write there succeeds: the doctor would call it open."""
    assert "/proc/sysrq-trigger" in bundle.READ_ONLY
    assert not set(bundle.READ_ONLY) & set(bundle.MASKED)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
def test_an_ordinary_user_cannot_enforce_limits_and_is_told(tmp_path: Path) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        checks = preflight.machine(OciSettings(Path("/var/tmp/gridsouk-nobody")))
        rows = [[check.name, check.ok, check.sentence, check.fix] for check in checks]
        os.write(write, json.dumps(rows).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        rows = {name: (ok, sentence, fix) for name, ok, sentence, fix in json.load(pipe)}
    os.waitpid(pid, 0)
    assert not rows["root"][0]
    assert not rows["control groups"][0]
    assert "limits would not hold" in rows["control groups"][1]
    assert "root" in rows["control groups"][2]


def test_an_open_door_and_a_class_that_was_not_tried_are_failures() -> None:
    tried = tuple(
        Attempt(kind, f"try {kind}", "ALLOWED" if kind == 10 else "EPERM")
        for kind in doctor.CLASSES
        if kind not in (19, 25)
    )
    found = failed(preflight.by_class(tried))
    assert set(found) == {
        "escape 10: open sockets past the network namespace",
        "escape probe",
    }
    assert "try 10" in found["escape 10: open sockets past the network namespace"].sentence
    assert "25" in found["escape probe"].sentence


@pytest.mark.parametrize("outcome", ["ALLOWED", "EINVAL", "EFAULT", "EBADF"])
def test_a_complaint_about_arguments_is_an_open_door(outcome: str) -> None:
    assert not Attempt(1, "mount", outcome).blocked
    assert Attempt(1, "mount", "EPERM").blocked


def test_a_container_s_own_groups_must_be_able_to_hand_limits_down(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    (tmp_path / "cgroup.procs").write_text("1\n")
    assert preflight._groups(tmp_path).ok  # the machine's own root, which has no type
    (tmp_path / "cgroup.type").write_text("domain\n")
    check = preflight._groups(tmp_path)
    assert failed((check,))["control groups"].sentence.startswith("version 2, of a container")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    assert preflight._groups(tmp_path).ok
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu pids\n")
    assert "lacks memory" in preflight._groups(tmp_path).sentence
