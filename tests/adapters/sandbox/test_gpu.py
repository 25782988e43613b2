"""On a real GPU: what is found, what a job sees of it, and that nothing of it stays. `-m gpu`.

Needs the driver and `nvidia-ctk cdi generate --device-name-strategy=uuid`; skipped without them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from node.adapters.devices.nvml import NvmlDevices, find_gpus
from node.adapters.oci import cdi
from node.machine import SLACK_MIB
from tests.adapters.sandbox.harness import PATIENCE_S, Driver, ended

pytestmark = [pytest.mark.gpu, pytest.mark.sandbox]

# Through the driver's own library, which CDI brings: no image with CUDA is needed.
PROGRAM = """
import ctypes, time
cuda = ctypes.CDLL("libcuda.so.1")
assert cuda.cuInit(0) == 0
count = ctypes.c_int()
assert cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
uuid = (ctypes.c_ubyte * 16)()
assert cuda.cuDeviceGetUuid(uuid, 0) == 0
context, memory = ctypes.c_void_p(), ctypes.c_uint64()
assert cuda.cuCtxCreate_v2(ctypes.byref(context), 0, 0) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(1 << 30)) == 0
assert cuda.cuMemsetD8_v2(memory, 7, ctypes.c_size_t(1 << 30)) == 0
print(count.value, bytes(uuid).hex(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def gpus() -> Iterator[NvmlDevices]:
    """The machine's GPUs."""
    found = find_gpus()
    if found is None:
        pytest.skip("there is no NVIDIA GPU here")
    if not any(Path(each).is_dir() for each in ("/etc/cdi", "/var/run/cdi")):
        pytest.skip("there is no CDI specification here")
    yield found
    found.close()


def test_each_gpu_is_found_and_can_be_given(gpus: NvmlDevices) -> None:
    for unit, health in zip(gpus.units(), gpus.health(), strict=True):
        assert unit.uuid.startswith(("GPU-", "MIG-"))
        assert unit.ram_mib > 1024
        assert unit.cuda_vers > 1000
        assert health.healthy, health.reason
        edits = cdi.edits_for([unit.uuid], (Path("/etc/cdi"), Path("/var/run/cdi")))
        assert any("nvidia" in node.path for node in edits.nodes)


async def test_a_job_sees_its_gpu_and_leaves_nothing_on_it(
    each_driver: Driver, gpus: NvmlDevices
) -> None:
    unit = gpus.units()[0]
    before = gpus.health()[0].memory_used_mib or 0
    sandbox = each_driver.again(gpus)
    workspace = each_driver.workspace(f"python3 -c '{PROGRAM}'", memory_mib=2048)
    await sandbox.prepare(workspace)
    await sandbox.start(workspace.work_id)
    await each_driver.wait_log(workspace.work_id, "\n")
    count, uuid = (await each_driver.log(workspace.work_id)).split()
    assert count == "1"
    assert uuid == unit.uuid.removeprefix("GPU-").replace("-", "")
    seen = await sandbox.observe(workspace.work_id)
    assert seen.vram_mib >= before + 1024
    assert seen.temperature_c is not None
    assert gpus.health()[0].processes == 1
    await sandbox.stop(workspace.work_id, 0)
    await ended(sandbox, workspace.work_id)
    with trio.fail_after(PATIENCE_S):
        while gpus.health()[0].processes or (
            (gpus.health()[0].memory_used_mib or 0) > before + SLACK_MIB
        ):
            await trio.sleep(0.1)
