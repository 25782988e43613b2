"""`python -m tests.guest [suite|systemd|shell] [-- ARGS]`: boot a guest and run something in it.

`suite` (the usual): the sandbox's tests under runc and crun on pure control groups version 2; ARGS
go to pytest. `systemd`: the unit of `souk service install` under a real systemd. `shell`: ARGS are
a command, for a look around. The exit code is the command's, or 125 if it never came to its end.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from typing import Final

from tests.guest.machine import Guest, GuestError, run

ROOM: Final = "tests/adapters/sandbox"
SUITE: Final = (
    f"{ROOM}/test_cgroups.py",
    f"{ROOM}/test_contract.py",
    f"{ROOM}/test_escape.py",
    f"{ROOM}/test_preflight.py",
    f"{ROOM}/test_limits.py",
    f"{ROOM}/test_lifecycle.py",
    f"{ROOM}/test_verify.py",
    "-k",
    # Both runtimes; of the tests of one driver those that meet the kernel in a way of their own.
    "not docker and not podman and not remapped and (runc or (crun and not lifecycle) or fit or "
    "test_cgroups or outlives or shim_was_killed or starter_killed)",
)
UNDER_SYSTEMD: Final = ("unit", "market")
PYTEST: Final = (".venv/bin/python", "-m", "pytest", "-p", "no:cacheprovider", "-v", "--color=no")


def main() -> int:
    """Run it, and say how long it took."""
    parser = argparse.ArgumentParser(prog="./run guest", description=__doc__)
    parser.add_argument("kind", nargs="?", default="suite", choices=("suite", "systemd", "shell"))
    parser.add_argument("--systemd", action="store_true", help="systemd as the first program")
    parser.add_argument("--timeout-s", type=int, default=1800)
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    given, arguments = parser.parse_args(words[:at]), words[at + 1 :]
    if given.kind == "suite":
        command = shlex.join([*PYTEST, *(arguments or SUITE)])
    elif given.kind == "systemd":
        command = " && ".join(f".venv/bin/python -m tests.guest.{one}" for one in UNDER_SYSTEMD)
    else:
        command = " ".join(arguments)
    systemd = given.systemd or given.kind == "systemd"
    began = time.monotonic()
    try:
        code = run(Guest(command, systemd=systemd, timeout_s=given.timeout_s))
    except GuestError as problem:
        print(f"guest: {problem}", file=sys.stderr)
        return 1
    print(f"guest: {given.kind} ended with {code} after {time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
