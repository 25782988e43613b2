"""For all tests: no property fails because the machine is busy; who shares a machine takes turns.

`./run test` runs two processes (pytest-xdist, `--dist loadgroup`). Tests of one group run in one of
them, in order; a group shares what there is once on a machine (engines, units' ids) or what is slow
to start (a market, a browser). All other tests are dealt out one by one.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put each test into its group."""
    for item in items:
        path = item.path.relative_to(item.config.rootpath).as_posix()
        group = next((name for start, name in GROUPS.items() if path.startswith(start)), "")
        if not group and path.startswith(BY_FILE):
            group = path
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
