"""Shim: the sandbox's own, holding a container of an engine. Run as `python -I -S`."""

from __future__ import annotations

from node.adapters.engine.hold import EngineContainer
from node.adapters.oci import shim


def main() -> None:
    """Run one job to its end; its specification is the last argument."""
    shim.main(EngineContainer)
