"""Progress: the share of its work that a job says is done, read from a file that it writes.

The file is a stranger's: a link, a pipe, a directory or a novel in its place is no progress.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path

from market.units import PPM
from node.adapters.oci.settings import PROGRESS

_BYTES_MAX = 32  # a number from 0 to 1 is shorter


def read_progress(directory: Path) -> int:
    """Parts in a million, from the file PROGRESS in the job's /out on the host; 0: nothing said."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(directory / PROGRESS, flags)
    except OSError:
        return 0
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return 0
        said = float(os.pread(file, _BYTES_MAX, 0))
    except (OSError, ValueError):
        return 0
    finally:
        os.close(file)
    # Half a line, while the job writes it, may read as less: rates are taken over many looks.
    return min(PPM, max(0, round(said * PPM))) if math.isfinite(said) else 0
