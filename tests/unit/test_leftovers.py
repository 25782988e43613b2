"""The leftovers script, on a made-up machine: what is ours is named, what is not is left out."""

from pathlib import Path

import pytest

from scripts.leftovers import find_leftovers, has_our_name

REPOSITORY = Path("/src/gridsouk")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    add_process(tmp_path, 1, parent=0, command="init")
    add_process(tmp_path, 10, parent=1, command="sh ./run leftovers", environ="GRIDSOUK_DEMO=10")
    add_process(tmp_path, 11, parent=10, command="python scripts/leftovers.py")
    write(tmp_path / "proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/root rw\n")
    (tmp_path / "sys/fs/cgroup/memory/docker").mkdir(parents=True)
    return tmp_path


def add_process(machine: Path, pid: int, *, parent: int, command: str, environ: str = "") -> None:
    folder = machine / "proc" / str(pid)
    write(folder / "cmdline", command.replace(" ", "\0") + "\0")
    write(folder / "comm", command.split()[0] + "\n")
    write(folder / "stat", f"{pid} (a (name) b) S {parent} 0 0")
    write(folder / "environ", f"PATH=/bin\0{environ}\0")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def lines(machine: Path) -> list[str]:
    found = find_leftovers(machine, REPOSITORY, self_pid=11)
    return [str(leftover).replace(str(machine), "") for leftover in found]


def test_a_clean_machine_has_none_and_the_caller_is_spared(machine: Path) -> None:
    assert lines(machine) == []


def test_processes_by_name_by_script_and_by_environment(machine: Path) -> None:
    add_process(machine, 20, parent=1, command="souk-shim agreement")
    add_process(machine, 21, parent=1, command="python /venv/bin/souk-agent")
    add_process(machine, 22, parent=1, command="anvil --port 1", environ="GRIDSOUK_DEMO=77")
    add_process(machine, 23, parent=1, command="vim notes about gridsouk")
    assert lines(machine) == [
        "process  20  souk-shim agreement",
        "process  21  python /venv/bin/souk-agent",
        "process  22  anvil --port 1 (started by a demo)",
    ]


def test_mounts_cgroups_loops_namespaces_and_links(machine: Path) -> None:
    write(
        machine / "proc/self/mountinfo",
        "1 1 8:1 / /src/gridsouk rw - ext4 /dev/root rw\n"
        "2 1 0:9 / /tmp/gridsouk-demo/a\\040b/rootfs rw shared:1 - overlay overlay rw\n",
    )
    (machine / "sys/fs/cgroup/memory/gridsouk/job-1").mkdir(parents=True)
    write(machine / "sys/fs/cgroup/memory/gridsouk/job-1/cgroup.procs", "5\n6\n")
    write(machine / "sys/block/loop3/loop/backing_file", "/var/lib/gridsouk/disk.img\n")
    write(machine / "sys/block/loop4/loop/backing_file", "/var/lib/other.img\n")
    (machine / "run/netns/souk-7").mkdir(parents=True)
    (machine / "sys/class/net/eth0").mkdir(parents=True)
    (machine / "sys/class/net/soukveth7").mkdir(parents=True)
    assert lines(machine) == [
        "mount    /tmp/gridsouk-demo/a b/rootfs  overlay",
        "cgroup   /sys/fs/cgroup/memory/gridsouk  0 processes",
        "cgroup   /sys/fs/cgroup/memory/gridsouk/job-1  2 processes",
        "loop     loop3  /var/lib/gridsouk/disk.img",
        "netns    souk-7",
        "link     soukveth7",
    ]


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("/src", False),
        ("/src/gridsouk", False),
        ("/src/gridsouk/.venv", False),
        ("/src/gridsouk/state/gridsouk-a", True),
        ("/var/lib/gridsouk", True),
        ("/var/lib/oursouk-a", False),
    ],
)
def test_the_checkout_itself_is_not_a_leftover(path: str, ours: bool) -> None:
    assert has_our_name(Path(path), REPOSITORY) is ours


def test_a_scope_is_one_and_the_slice_that_systemd_keeps_is_none(machine: Path) -> None:
    groups = machine / "sys/fs/cgroup/gridsouk.slice"
    groups.mkdir()
    assert lines(machine) == []
    write(groups / "gridsouk:node:job-1:0.scope/cgroup.procs", "5\n")
    found = "cgroup   /sys/fs/cgroup/gridsouk.slice/gridsouk:node:job-1:0.scope  1 processes"
    assert lines(machine) == [found]
