"""Control groups by their files, in both versions; a folder stands in for the hierarchy."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.adapters.oci import cgroups
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
