"""Every known way out of the sandbox is tried from inside, and none leads anywhere."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from node.adapters.oci import doctor
from node.adapters.oci.doctor import CLASSES
from tests.adapters.sandbox.harness import DRIVERS, Driver, env

pytestmark = pytest.mark.sandbox

LIMITS = {19}  # bombs and hogs: tests/adapters/sandbox/test_limits.py


@pytest.mark.parametrize("each_driver", [*DRIVERS, "remapped"], indirect=True)
async def test_every_attempt_to_escape_is_blocked(each_driver: Driver) -> None:
    name = f"gridsouk-probe-{each_driver.settings.instance}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0{name}")
        unix.listen()
        port = str(server.getsockname()[1])
        attempts = await doctor.examine(
            each_driver.sandbox,
            each_driver.blobs,
            each_driver.image,
            envs=(env("PROBE_PORT", port), env("PROBE_SOCKET", name)),
            gang=True,
        )
    print("\n" + "\n".join(f"{a.kind:>3} {a.outcome:<14} {a.name}" for a in attempts))
    assert [attempt for attempt in attempts if not attempt.blocked] == []
    assert {attempt.kind for attempt in attempts} == set(CLASSES) - LIMITS
    assert len(attempts) > 100
    assert sum("gang" in attempt.name for attempt in attempts) >= 8
    assert await each_driver.sandbox.works() == ()


def test_the_probe_sees_an_open_door() -> None:
    """Run outside any sandbox, it must find much allowed: it is able to fail."""
    source = (
        "import sys; sys.argv = ['probe']\n"
        "from node.adapters.oci import probe as m\n"
        "every = m.attempts\n"
        "safe = ('read /etc/shadow', 'raw ICMP', 'AF_PACKET', 'unshare mount', 'nice -20')\n"
        "m.attempts = lambda: [a for a in every() if a[1] in safe]\n"
        "sys.exit(m.main())\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stdout.count(b"ALLOWED") >= 4
