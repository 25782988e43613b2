"""Options: the flags that every command has, and what they lead to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from node.cli.settings import Settings, load
from node.client.http import Node


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Where the configuration and the node are, and how to answer."""

    config: Path | None = None
    "Configuration file."
    data_dir: Path | None = None
    "The node's directory."
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
    "Answer with JSON, errors too."

    def settings(self, **overrides: object) -> Settings:
        """The settings with these flags on top. Raises SettingsError."""
        return load(self.config, {"data_dir": self.data_dir, **overrides})

    def node(self) -> Node:
        """The node that runs here."""
        return Node(self.settings().socket_path)


DEFAULT = Common()
