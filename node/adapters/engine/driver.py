"""Driver: the `Sandbox` port over Docker or Podman, whichever answers on the socket."""

from __future__ import annotations

from node.adapters.engine.runtime import EngineRuntime
from node.adapters.oci.driver import ContainerSandbox
from node.adapters.oci.settings import OciSettings
from node.ports import Blobs, Devices


class EngineSandbox(ContainerSandbox):
    """The sandbox over an engine."""

    def __init__(self, settings: OciSettings, blobs: Blobs, devices: Devices) -> None:
        """Raises SandboxError if no engine answers, or one that is too old."""
        super().__init__(settings, blobs, devices, EngineRuntime(settings))
