"""The base image: whatever Python builds it, a job finds the packages, and its bytes repeat."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

import pytest

from node.adapters.oci.base_image import build_base_image

pytestmark = pytest.mark.sandbox


def test_packages_lie_where_every_python_looks(tmp_path: Path) -> None:
    built = build_base_image(tmp_path / "a.tar", ("yaml",))
    assert built == build_base_image(tmp_path / "b.tar", ("yaml",))
    with tarfile.open(tmp_path / "a.tar") as layout:
        largest = max(layout.getmembers(), key=lambda member: member.size)
        layer = layout.extractfile(largest)
        assert layer is not None
        with tarfile.open(fileobj=layer) as files:
            names = set(files.getnames())
    stdlib = f"opt/python/lib/python{sys.version_info.major}.{sys.version_info.minor}"
    # Debian's own Python has no site-packages on its path; the library's folder always is.
    assert {f"{stdlib}/json/__init__.py", f"{stdlib}/yaml/__init__.py", "bin/sh"} <= names
