"""Every limit of the sandbox, attacked from inside."""

from __future__ import annotations

import pytest

from node.adapters.oci import cgroups
from tests.adapters.sandbox.harness import MIB, Driver
from tests.adapters.sandbox.together import together

pytestmark = pytest.mark.sandbox


def python(source: str) -> str:
    """A command that runs the Python source."""
    return "python3 -c '" + source.replace("'", '"') + "'"


async def a_memory_hog_is_killed_and_said_to_be_out_of_memory(driver: Driver) -> None:
    hog = "data = [bytearray(1 << 20) for _ in range(400)]"
    _, observed, _ = await driver.finished(python(hog), memory_mib=64)
    assert (observed.exit_code, observed.signal, observed.out_of_memory) == (137, 9, True)


async def memory_below_the_limit_is_not_called_out_of_memory(driver: Driver) -> None:
    modest = "data = bytearray(24 << 20); print(len(data))"
    _, observed, log = await driver.finished(python(modest), memory_mib=64)
    assert (observed.exit_code, observed.out_of_memory, log) == (0, False, f"{24 << 20}\n")


async def a_killed_program_is_not_called_out_of_memory(driver: Driver) -> None:
    _, observed, _ = await driver.finished("sh -c 'kill -9 $$'")
    assert (observed.exit_code, observed.signal, observed.out_of_memory) == (137, 9, False)


async def a_fork_bomb_stops_at_the_limit(driver: Driver) -> None:
    bomb = """
import os, time
count = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(60)
    except BlockingIOError:
        break
    count += 1
print(count, flush=True)
os._exit(0)
"""
    _, observed, log = await driver.finished(python(bomb))
    assert observed.exit_code == 0
    assert 40 < int(log) < 64


async def two_busy_programs_get_one_cpu(driver: Driver) -> None:
    busy = "B='busybox timeout 2 busybox yes'; $B > /dev/null & $B > /dev/null; wait"
    _, observed, _ = await driver.finished(busy, cpus=1)
    assert observed.cpu_ms <= 1150 * observed.metered_s + 100
    assert observed.cpu_ms > 100  # not more: other programs of the machine want some too


async def the_volume_ends_at_its_quota(driver: Driver) -> None:
    fill = "busybox dd if=/dev/zero of=/out/big bs=64k; wc -c < /out/big; rm /out/big"
    _, _, log = await driver.finished(fill, disk_mib=16)
    assert 16 * MIB <= int(log.split()[-1]) <= 20 * MIB


async def the_volume_has_a_bounded_number_of_files(driver: Driver) -> None:
    many = """
import os
count = 0
try:
    while count < 20000:
        os.close(os.open(f"/out/{count}", os.O_CREAT))
        count += 1
except OSError as problem:
    print(count, problem.errno)
for number in range(count):
    os.unlink(f"/out/{number}")
"""
    _, _, log = await driver.finished(python(many), disk_mib=16)
    made, code = log.split()
    assert int(code) == 28
    assert int(made) < 20_000


async def memory_file_systems_end_at_their_size(driver: Driver) -> None:
    for place in ("/tmp", "/dev/shm"):
        fill = f"busybox dd if=/dev/zero of={place}/big bs=64k 2> /dev/null; wc -c < {place}/big"
        _, _, log = await driver.finished(fill)
        assert int(log) == 8 * MIB, place


async def open_files_end_at_their_limit(driver: Driver) -> None:
    source = """
import os
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError as problem:
    print(held[-1], problem.errno)
"""
    _, _, log = await driver.finished(python(source))
    assert log == "127 24\n"


async def the_log_is_bounded_and_keeps_the_last_words(driver: Driver) -> None:
    flood = "busybox yes abcdefghijklmno | head -c 20000000"
    chatter = f"echo first words; {flood}; echo; echo last words"
    work_id, observed, log = await driver.finished(chatter)
    assert observed.exit_code == 0
    assert observed.log_bytes == len(log) <= driver.settings.log_bytes_max
    assert log.startswith("first words\n")
    assert log.endswith("last words\n")
    left_out = int(log.partition("[gridsouk: ")[2].split()[0])
    kept = len(log) - len(f"\n[gridsouk: {left_out} bytes of output left out here]\n")
    assert kept + left_out == len("first words\n") + 20_000_000 + 1 + len("last words\n")
    # An offset means the same byte for ever.
    assert await driver.sandbox.read_log(work_id, 6, 5) == b"words"


async def a_job_past_its_time_is_ended_and_says_so(driver: Driver) -> None:
    _, observed, _ = await driver.finished("sleep 60", max_duration_s=1)
    assert observed.timed_out
    assert (observed.exit_code, observed.signal) == (143, 15)
    assert 1 <= observed.metered_s < 3


async def what_a_job_leaves_behind_dies_with_it(driver: Driver) -> None:
    work_id, observed, _ = await driver.finished("busybox setsid sleep 600 & exit 0")
    assert observed.exit_code == 0
    assert work_id in await driver.sandbox.works()
    group = cgroups.Cgroup(driver.paths(work_id).cgroup, cgroups.is_v2())
    assert group.pids() == ()


LIMITS = (
    a_memory_hog_is_killed_and_said_to_be_out_of_memory,
    memory_below_the_limit_is_not_called_out_of_memory,
    a_killed_program_is_not_called_out_of_memory,
    a_fork_bomb_stops_at_the_limit,
    two_busy_programs_get_one_cpu,
    the_volume_ends_at_its_quota,
    the_volume_has_a_bounded_number_of_files,
    memory_file_systems_end_at_their_size,
    open_files_end_at_their_limit,
    the_log_is_bounded_and_keeps_the_last_words,
    a_job_past_its_time_is_ended_and_says_so,
    what_a_job_leaves_behind_dies_with_it,
)


async def test_every_limit_holds(each_driver: Driver) -> None:
    await together(each_driver, [(limit.__name__, limit) for limit in LIMITS])
