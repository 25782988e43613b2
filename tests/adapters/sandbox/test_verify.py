"""A runtime that does not do what it was told is found out before the job begins."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from market.errors import SandboxError
from node.adapters.oci import cgroups
from node.adapters.oci.driver import OciSandbox
from node.ports import RunState, Unit
from tests.adapters.sandbox.harness import Driver, NoGpus, ended

pytestmark = pytest.mark.sandbox

ROOT = Path(__file__).resolve().parents[3]
LIAR = """#!{python} -IS
import json, os, sys
arguments = sys.argv[1:]
if "create" in arguments or "run" in arguments:
    path = os.path.join(arguments[arguments.index("--bundle") + 1], "config.json")
    with open(path) as file:
        config = json.load(file)
    linux, process = config["linux"], config["process"]
    {change}
    with open(path, "w") as file:
        json.dump(config, file)
os.execv("{runtime}", ["{runtime}", *arguments])
"""

LIES = {
    "no seccomp filter": ("del linux['seccomp']", "seccomp"),
    "new privileges": ("process['noNewPrivileges'] = False; del linux['seccomp']", "no_new_privs"),
    "capabilities": (
        "process['capabilities'] = {k: ['CAP_NET_RAW'] for k in "
        "('bounding', 'effective', 'inheritable', 'permitted', 'ambient')}",
        "CapBnd",
    ),
    "no user namespace": (
        "linux['namespaces'] = [n for n in linux['namespaces'] if n['type'] != 'user']; "
        "del linux['uidMappings'], linux['gidMappings']",
        "uid_map",
    ),
    "the machine's network": (
        "linux['namespaces'] = [n for n in linux['namespaces'] if n['type'] != 'network']",
        "net namespace",
    ),
    "a way out of its network": (
        "code = 'import json, sys; sys.path.insert(0, sys.argv[1]); '"
        "       'from node.adapters.oci.tun import make; '"
        "       'make(json.load(sys.stdin)[\\'pid\\'], \\'10.9.9.9\\')'; "
        f"config['hooks'] = dict(createRuntime=[dict(path={sys.executable!r}, "
        f"args=[{sys.executable!r}, '-c', code, {str(ROOT)!r}])])",
        "a route leads to souk0",
    ),
    "another range": (
        "[m.update(hostID=900000) for m in linux['uidMappings']]; "
        "[m.update(hostID=900000) for m in linux['gidMappings']]",
        "uid_map",
    ),
    "root inside": ("process['user'] = {'uid': 0, 'gid': 0}", "Uid"),
    "no memory limit": ("del linux['resources']['memory']", "memory limit"),
    "no pids limit": ("del linux['resources']['pids']", "pids limit"),
    "no cpu limit": ("del linux['resources']['cpu']", "cpu limit"),
    "a device": (
        "config['mounts'].append(dict(destination='/dev/full2', type='bind', "
        "source='/dev/kmsg', options=['bind']))",
        "was not granted",
    ),
    "another folder": ("process['cwd'] = '/tmp'", "working directory"),
    "another disk": (
        "[m.update(source='/srv') for m in config['mounts'] if m['destination'] == '/out']",
        "/out is not the job's disk",
    ),
    "/sys": (
        "config['mounts'].append(dict(destination='/sys', type='bind', source='/sys', "
        "options=['rbind', 'ro']))",
        "/sys",
    ),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_runtime_that_drops_something_is_found_out(
    driver: Driver, tmp_path: Path, lie: str
) -> None:
    change, said = LIES[lie]
    runtime = tmp_path / "liar"
    real = shutil.which("runc")
    runtime.write_text(LIAR.format(python=sys.executable, change=change, runtime=real))
    runtime.chmod(0o755)
    sandbox = driver.again(runtime=str(runtime))
    workspace = driver.workspace("echo hostile code ran")
    await sandbox.prepare(workspace)
    paths = driver.paths(workspace.work_id)
    (paths.skeleton / "sys").mkdir()  # a mount point for the lie about /sys
    with pytest.raises(SandboxError, match=said):
        await sandbox.start(workspace.work_id)
    assert await driver.log(workspace.work_id) == ""
    assert cgroups.Cgroup(paths.cgroup, cgroups.is_v2()).pids() == ()
    # The job is as it was, and runs under a runtime that obeys.
    assert (await sandbox.observe(workspace.work_id)).state is RunState.PREPARED
    await driver.sandbox.start(workspace.work_id)
    await ended(driver.sandbox, workspace.work_id)
    assert await driver.log(workspace.work_id) == "hostile code ran\n"


async def test_a_granted_gpu_is_there_and_no_other(each_driver: Driver, tmp_path: Path) -> None:
    driver = each_driver
    uuid = "GPU-5f0c1b7e-0000-4000-8000-000000000001"
    for name, minor in (("nvidia0", 8), ("nvidia1", 9)):
        os.mknod(tmp_path / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
    library = tmp_path / "libcuda.so.1"
    library.write_text("a library")
    spec = {
        "cdiVersion": "0.6.0",
        "kind": "nvidia.com/gpu",
        "devices": [
            {
                "name": uuid,
                "containerEdits": {
                    "deviceNodes": [{"path": "/dev/nvidia0", "hostPath": f"{tmp_path}/nvidia0"}]
                },
            },
            {
                "name": "GPU-other",
                "containerEdits": {
                    "deviceNodes": [{"path": "/dev/nvidia1", "hostPath": f"{tmp_path}/nvidia1"}]
                },
            },
        ],
        "containerEdits": {
            "env": [f"NVIDIA_VISIBLE_DEVICES={uuid}"],
            "mounts": [
                {"hostPath": str(library), "containerPath": "/usr/lib/gpu/libcuda.so.1"},
            ],
            "hooks": [{"hookName": "createContainer", "path": "/bin/false"}],
        },
    }
    directory = tmp_path / "cdi"
    directory.mkdir()
    (directory / "nvidia.json").write_text(json.dumps(spec))
    units = (Unit(0, "RTX 4090", uuid, 24_564, declared=False),)
    sandbox = driver.again(NoGpus(units), cdi_dirs=(directory,))
    workspace = driver.workspace(
        "ls /dev/nvidia*; cat $LD_LIBRARY_PATH/libcuda.so.1; echo; echo $NVIDIA_VISIBLE_DEVICES; "
        "head -c 4 /dev/nvidia0 | wc -c; echo no > /usr/lib/gpu/libcuda.so.1"
    )
    await sandbox.prepare(workspace)
    await sandbox.start(workspace.work_id)
    await ended(sandbox, workspace.work_id)
    lines = (await driver.log(workspace.work_id)).splitlines()
    assert lines[:4] == ["/dev/nvidia0", "a library", uuid, "4"]
    assert "Read-only file system" in lines[4]


@pytest.mark.parametrize("lie", ["no seccomp filter", "capabilities", "root inside"])
@pytest.mark.parametrize("each_driver", ["docker"], indirect=True)
async def test_an_engine_whose_runtime_lies_is_found_out(each_driver: Driver, lie: str) -> None:
    change, said = LIES[lie]
    runtime = each_driver.settings.socket.with_name("liar")
    real = shutil.which("runc")
    runtime.write_text(LIAR.format(python=sys.executable, change=change, runtime=real))
    runtime.chmod(0o755)
    sandbox = each_driver.again(runtime="liar")
    workspace = each_driver.workspace("echo hostile code ran")
    await sandbox.prepare(workspace)
    with pytest.raises(SandboxError, match=said):
        await sandbox.start(workspace.work_id)
    assert await each_driver.log(workspace.work_id) == ""
    assert (await sandbox.observe(workspace.work_id)).state is RunState.PREPARED


@pytest.mark.parametrize("each_driver", ["podman"], indirect=True)
async def test_podman_is_not_told_which_runtime_to_use(each_driver: Driver) -> None:
    with pytest.raises(SandboxError, match="with runc, not runsc") as caught:
        each_driver.again(runtime="runsc")
    assert "podman --runtime runsc" in caught.value.hint


async def test_an_unknown_gpu_is_an_error_that_says_what_to_do(driver: Driver) -> None:
    units = (Unit(0, "RTX 4090", "GPU-unknown", 24_564, declared=False),)
    sandbox = OciSandbox(driver.settings, driver.blobs, NoGpus(units))
    with pytest.raises(SandboxError, match="GPU-unknown") as caught:
        await sandbox.prepare(driver.workspace("true"))
    assert "nvidia-ctk" in caught.value.hint
