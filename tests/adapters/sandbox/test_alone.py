"""One node of a machine has a sandbox's name to itself, for as long as it lives."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from market.errors import SandboxError
from node.adapters.oci.alone import alone
from node.adapters.oci.settings import OciSettings

HOLDER = """
import sys
from pathlib import Path
from node.adapters.oci.alone import alone
from node.adapters.oci.settings import OciSettings
with alone(OciSettings(Path(sys.argv[1]), run_dir=Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_name_is_one_nodes_until_that_is_dead(tmp_path: Path) -> None:
    mine = OciSettings(tmp_path, run_dir=tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SandboxError, match="another node") as refused, alone(mine):
            pass
        assert "instance" in refused.value.hint
        with alone(OciSettings(tmp_path, run_dir=tmp_path, instance="other")):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with alone(mine):
        pass
    with alone(mine):
        pass
