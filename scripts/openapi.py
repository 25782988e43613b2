"""Writes docs/openapi.json, what the node's HTTP API takes and answers. When a route changed, run:

    .venv/bin/python -m scripts.openapi

A test compares the file with the app.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from node.web.api import make_app
from node.web.sessions import Sessions

PATH = Path(__file__).resolve().parents[1] / "docs" / "openapi.json"


def document() -> str:
    """The document as it lies in the file."""
    desk = cast(Any, SimpleNamespace(ports=SimpleNamespace(blobs=None)))
    app = make_app(desk, Sessions(bytes, frozenset()))
    return json.dumps(app.openapi(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    PATH.write_text(document())
