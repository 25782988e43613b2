#!/usr/bin/env python3
"""Coverage: every line, statement, branch and function of the escrow is tested, or exit 1.

    contracts/tools/coverage.py

Standard library only. The gas tests and the random walk are left out: a line that only chance
reaches is not tested.
"""

from __future__ import annotations

import re
import subprocess
import sys

from artifacts import ROOT, forge  # its neighbour: a script's own folder is on the path

ROW = re.compile(r"^\| (src/escrow/\w+\.sol) +\|(.+)\|$", re.MULTILINE)


def main() -> int:
    """1 if anything is below 100 %."""
    command = [forge(), "coverage", "--no-match-coverage", "(node_modules|test|TestToken)"]
    command += ["--no-match-contract", "(Gas|Invariant|Symbolic)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    rows = ROW.findall(done.stdout)
    if done.returncode != 0 or len(rows) < len(list((ROOT / "src" / "escrow").glob("*.sol"))):
        sys.stderr.write(done.stdout + done.stderr)
        return 1
    short = [
        f"{name}: {cells}"
        for name, cells in rows
        if any(not cell.strip().startswith("100.00%") for cell in cells.split("|"))
    ]
    for line in short:
        sys.stderr.write(line + "\n")
    sys.stdout.write(f"{len(rows) - len(short)} of {len(rows)} files wholly covered\n")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
