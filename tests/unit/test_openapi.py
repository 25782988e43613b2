"""The committed description of the API is the app's own."""

from __future__ import annotations

import json

from scripts.openapi import PATH, document


def test_the_committed_document_is_the_apps() -> None:
    assert PATH.read_text() == document(), "run: .venv/bin/python -m scripts.openapi"


def test_every_route_says_what_it_is_for() -> None:
    paths = json.loads(PATH.read_text())["paths"]
    assert "/api/jobs" in paths
    for path, methods in paths.items():
        for method, said in methods.items():
            assert said.get("description"), f"{method} {path}"
