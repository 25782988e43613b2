"""Writes docs/CLI.md from the program itself: `python -m scripts.cli_docs [--check]`."""

from __future__ import annotations

import sys
from pathlib import Path

from node.cli.main import make_app

PLACE = Path(__file__).resolve().parent.parent / "docs" / "CLI.md"
HEAD = """# The commands

Written by `python -m scripts.cli_docs` from the program; a test holds it to that. Every command
also has `-o table|json|yaml|wide|name`; views are drawn again with `-w`. Exit codes: [README](../README.md).

"""


def reference() -> str:
    """The reference in Markdown."""
    sys.argv = ["souk"]  # a group of commands takes its name from there
    said = make_app().generate_docs(output_format="markdown", recursive=True)
    _, _, body = said.partition("\n")
    return HEAD + body.strip() + "\n"


def main() -> int:
    """Write, or with --check say whether it is up to date."""
    if "--check" in sys.argv[1:]:
        return int(not PLACE.exists() or PLACE.read_text() != reference())
    PLACE.write_text(reference())
    return 0


if __name__ == "__main__":
    sys.exit(main())
