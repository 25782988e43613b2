"""Writes docs/JOBFILE.md and docs/job.schema.json: `python -m scripts.job_docs [--check]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from market.jobschema import job_schema

DOCS = Path(__file__).resolve().parent.parent / "docs"
HEAD = """# The job file

YAML, with SkyPilot's names. Written by `python -m scripts.job_docs` from the schema that
[editors read](job.schema.json); a test holds both to what `souk validate` takes. An unknown key is an
error with a suggestion. A first line like this gives completion in most editors:

```yaml
# yaml-language-server: $schema=https://example.org/job.schema.json   (or a path: souk schema > FILE)
```

Amounts are whole tokens. Sizes are binary and per unit, but for `disk_size`; a bare number is GiB. Every
requirement is a minimum, with or without a `+`. `souk explain JOB.yaml` says what each removes.

"""
TAIL = """
## What a job finds

| variable | what |
|---|---|
| `GRIDSOUK_PROGRESS` | a file: write how much is done, 0 to 1. A job that does is moved when it is slow |
| `SOUK_NODE_RANK`, `SOUK_NUM_NODES` | which machine of a gang this is, from 0, and of how many |
| `SOUK_NODE_IPS` | the addresses of all of them by rank, one a line; they reach each other at any port |
| `MASTER_ADDR`, `MASTER_PORT` | rank 0's address, and a port for it (29500 unless `envs` names one) |
| `PET_*`, `GLOO_SOCKET_IFNAME`, `NCCL_SOCKET_IFNAME` | the same for torchrun and what is beneath it |
| `HTTPS_PROXY` | the way out, if `egress` was asked for and sold |

It runs as a user without rights, on a read-only root; it may write to its `outputs`, its checkpoint
directory, `/tmp` and `/dev/shm`. It writes checkpoints to a temporary name and renames them, and takes
up what it finds in the checkpoint directory when it starts: [examples/train.py](../examples/train.py).
SIGTERM comes ten seconds before SIGKILL.

Examples: [examples/](../examples/README.md).
"""


def rows(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """A row for each key, those of mappings below their own."""
    required = set(schema.get("required", ()))
    for key, one in schema["properties"].items():
        must = " **required**" if key in required else ""
        words = " ".join(one.get("description", "").split())
        if "enum" in one:
            words += f" One of {', '.join(one['enum'])}."
        yield f"| `{prefix}{key}` | {words}{must} |"
        inner = (
            one
            if "properties" in one
            else next((other for other in one.get("anyOf", ()) if "properties" in other), None)
        )
        if inner is not None:
            yield from rows(inner, f"{prefix}{key}.")


def pages() -> dict[Path, str]:
    """Every page by its place."""
    table = ["| key | meaning |", "|---|---|", *rows(job_schema())]
    return {
        DOCS / "JOBFILE.md": HEAD + "\n".join(table) + "\n" + TAIL,
        DOCS / "job.schema.json": json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n",
    }


def main() -> int:
    """Write, or with --check say whether they are up to date."""
    if "--check" in sys.argv[1:]:
        return int(any(not p.exists() or p.read_text() != text for p, text in pages().items()))
    for place, text in pages().items():
        place.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
