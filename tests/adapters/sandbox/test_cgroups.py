"""Control groups by their files, in both versions; a folder stands in for the hierarchy."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from node.adapters.oci import cgroups, scopes, shim
from node.adapters.oci.cgroups import Cgroup

V1 = {
    "pids/g/job/cgroup.procs": "12\n34\n",
    "cpuacct/g/job/cpuacct.usage": "2500000000\n",
    "memory/g/job/memory.usage_in_bytes": "9000\n",
    "memory/g/job/memory.stat": "cache 1\ntotal_inactive_file 4000\n",
    "memory/g/job/memory.limit_in_bytes": "8192\n",
    "freezer/g/job/freezer.state": "THAWED\n",
}
V2 = {
    "cgroup.controllers": "cpu memory pids\n",
    "g/job/cgroup.procs": "12\n34\n",
    "g/job/cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
    "g/job/memory.current": "9000\n",
    "g/job/memory.stat": "anon 1\ninactive_file 4000\n",
    "g/job/memory.max": "8192\n",
    "g/job/cgroup.freeze": "0\n",
    "g/job/cgroup.events": "populated 1\nfrozen 1\n",
}


@pytest.fixture(params=[V1, V2], ids=["v1", "v2"])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Cgroup:
    for name, text in request.param.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return Cgroup("/g/job", cgroups.is_v2(tmp_path), tmp_path)


def test_use_is_read_in_one_unit(group: Cgroup) -> None:
    assert group.pids() == (12, 34)
    assert group.cpu_ms() == 2500
    assert group.memory_bytes() == 5000
    assert group.memory_limit_file.read_text() == "8192\n"


def test_freezing_writes_where_the_kernel_looks(group: Cgroup) -> None:
    assert group.freeze()
    name = "g/job/cgroup.freeze" if group.v2 else "freezer/g/job/freezer.state"
    assert (group.root / name).read_text() == ("1" if group.v2 else "FROZEN")
    group.thaw()
    assert (group.root / name).read_text() == ("0" if group.v2 else "THAWED")


def test_a_group_that_is_gone_reads_as_nothing(tmp_path: Path) -> None:
    for version2 in (False, True):
        gone = Cgroup("/g/other", version2, tmp_path)
        assert (gone.pids(), gone.cpu_ms(), gone.memory_bytes()) == ((), 0, 0)
        assert not gone.freeze()
        gone.remove()


def test_leftover_groups_are_known(group: Cgroup) -> None:
    assert cgroups.known("/g", group.root) == {"job"}
    assert cgroups.known("/h", group.root) == frozenset()


def test_who_kills_a_group_waits_for_its_end(tmp_path: Path) -> None:
    """Version 2 takes one write for all of it and answers before they are gone."""
    for name, text in V2.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    processes = tmp_path / "g/job/cgroup.procs"
    ended = threading.Timer(0.3, processes.write_text, [""])
    ended.start()
    group = Cgroup("/g/job", True, tmp_path)
    group.kill()
    assert group.pids() == ()
    assert (tmp_path / "g/job/cgroup.kill").read_text() == "1"
    ended.join()


def test_under_systemd_each_job_has_a_scope_of_its_own(tmp_path: Path) -> None:
    assert not scopes.are_used(tmp_path, tmp_path)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    assert not scopes.are_used(tmp_path, tmp_path / "no systemd")
    first, second = scopes.new("node", "job-1"), scopes.new("node-2", "job-1")
    for group in (first, second):
        scope = scopes.folder(group, tmp_path)
        assert scope is not None
        scope.mkdir(parents=True)
        assert f"--unit={scope.name}" in scopes.command(group)
        assert "Delegate=yes" in scopes.command(group)
    assert scopes.groups("node", tmp_path) == {"job-1": first}
    assert scopes.groups("node-2", tmp_path) == {"job-1": second}
    assert scopes.new("node", "job-1") != first
    assert scopes.folder("/gridsouk/node/job-1", tmp_path) is None
    assert scopes.command("/gridsouk/node/job-1") == ()


def test_a_shim_makes_room_for_the_container_in_its_scope(tmp_path: Path) -> None:
    shim.settle(None)
    shim.settle(str(tmp_path))
    assert (tmp_path / "shim" / "cgroup.procs").read_text() == str(os.getpid())
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
