"""For all tests: no property fails because the machine is busy; who shares a machine takes turns.

`./run test` runs two processes (pytest-xdist). Tests of one group run in one of them, in order; a
group shares what there is once on a machine (engines, units' ids) or what is slow to start (a
market, a browser). All other tests are dealt out one by one.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

GROUPS = {
    "tests/adapters/sandbox": "machine",
    "tests/services": "machine",
    "tests/browser": "screen",
    "tests/cli/test_newcomers.py": "screen",
    "tests/cli/test_listing.py": "screen",
}
BY_FILE = ("tests/adapters", "tests/cli")  # their fixtures are dear: a file stays together


class Groups(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped here
    """Deals out groups, the largest first, then what is in none."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        group = next((name for start, name in GROUPS.items() if path.startswith(start)), "")
        return group or (path if path.startswith(BY_FILE) else nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    """Instead of xdist's own groups, which pytest 9 does not let it write into the tests' names."""
    return Groups(config, log)
