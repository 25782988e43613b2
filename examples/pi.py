"""Pi by throwing darts, on as many machines as take part: each throws its own share.

Shows what a node of a gang is told (SOUK_NODE_RANK, SOUK_NUM_NODES), checkpoints, and progress.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

RANK = int(os.environ.get("SOUK_NODE_RANK", "0"))
NODES = int(os.environ.get("SOUK_NUM_NODES", "1"))
POINTS = int(os.environ.get("POINTS", "40000000")) // NODES
CHUNK = 400_000
OUT = Path(os.environ.get("GRIDSOUK_OUT", "/out"))
CHECKPOINT = Path(os.environ.get("GRIDSOUK_CHECKPOINT", "/ckpt")) / "state.json"


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.replace(path)


def main() -> None:
    """Throw, count, and say how far it is."""
    state = {"thrown": 0, "inside": 0}
    if CHECKPOINT.exists():
        state = json.loads(CHECKPOINT.read_text())
        print(f"rank {RANK}: going on after {state['thrown']} points", flush=True)
    while state["thrown"] < POINTS:
        random = np.random.default_rng([RANK, state["thrown"]])
        x, y = random.random((2, CHUNK))
        state["inside"] += int(((x * x + y * y) < 1).sum())
        state["thrown"] += CHUNK
        write(CHECKPOINT, json.dumps(state))
        if "GRIDSOUK_PROGRESS" in os.environ:
            write(Path(os.environ["GRIDSOUK_PROGRESS"]), str(min(1.0, state["thrown"] / POINTS)))
        if state["thrown"] % (CHUNK * 10) == 0:
            print(f"rank {RANK} of {NODES}: {state['thrown']} points", flush=True)
    print(f"rank {RANK} of {NODES}: pi is about {4 * state['inside'] / state['thrown']:.5f}")
    write(OUT / "pi.json", json.dumps(state))


main()
