"""The README's pictures: all there, each small, each described; none lies about unused."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BYTES_MAX = 120_000
SHOWN = re.compile(r'(?:src|srcset)="(docs/images/[^"]+)"|!\[[^\]]*\]\((docs/images/[^)]+)\)')
ALT = re.compile(r'<img[^>]*\balt="([^"]*)"|!\[([^\]]*)\]\(docs/images/')


def test_the_readmes_pictures_are_there_and_small() -> None:
    text = (ROOT / "README.md").read_text()
    shown = {"".join(found) for found in SHOWN.findall(text)}
    kept = {f"docs/images/{file.name}" for file in (ROOT / "docs" / "images").iterdir()}
    assert shown == kept
    assert len(shown) >= 5
    for name in shown:
        data = (ROOT / name).read_bytes()
        assert (data[:4], data[8:12]) == (b"RIFF", b"WEBP")
        assert len(data) <= BYTES_MAX, name


def test_each_picture_says_what_it_shows() -> None:
    words = ["".join(found) for found in ALT.findall((ROOT / "README.md").read_text())]
    assert len(words) >= 4
    assert all(len(one) > 20 for one in words), words
