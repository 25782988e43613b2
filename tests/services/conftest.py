"""These need root, runc and anvil; with CI=true a missing part is a failure, not a skip."""

from __future__ import annotations

import os
import shutil

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here."""
    missing = [name for name in ("runc", "mkfs.ext4", "busybox") if shutil.which(name) is None]
    if "ANVIL" not in os.environ and shutil.which("anvil") is None:
        missing.append("anvil (./run test sets it up)")
    if os.environ.get("CI") == "true" or (os.geteuid() == 0 and not missing):
        return
    reason = f"needs root, and {', '.join(missing) or 'nothing else'}"
    for item in items:
        if "tests/services" in str(item.path):
            item.add_marker(pytest.mark.skip(reason=reason))
