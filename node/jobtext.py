"""Job text: the YAML of a job file as a mapping, with the line of every key. Reads no disk.

Scalars stay text (`0.60`, `12.10` and `007` mean what they say) but for true, false and null. The
market's own rules are in `market/spec.py`.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from market.errors import MarketError, SpecError
from market.limits import JOB_FILE_BYTES_MAX
from market.units import format_bytes

NODES_MAX: Final = 4096  # of the YAML document
DEPTH_MAX: Final = 16
_KEY: Final = re.compile(r"[A-Za-z_][\w.]*")
_WORDS: Final = {"true": True, "false": False, "null": None, "~": None, "": None}


def read_job_text(data: bytes, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in `data`, and the line of each key (`resources.vram`: 7).

    Raises SpecError, which begins with `name` and the line.
    """
    if len(data) > JOB_FILE_BYTES_MAX:
        raise SpecError(f"{name}: larger than {format_bytes(JOB_FILE_BYTES_MAX)}",
                        hint="put data into files and name them in file_mounts")  # fmt: skip
    try:
        root = _compose(data.decode(), name)
        lines: dict[str, int] = {}
        raw = None if root is None else _plain(root, name, "", lines)
    except UnicodeDecodeError:
        raise SpecError(f"{name}: not UTF-8 text", hint="is this the job file?") from None
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise SpecError(f"{where}: {problem.problem or problem.context}",
                        hint="check the indentation and the quotes") from None  # fmt: skip
    except yaml.YAMLError as problem:
        raise SpecError(f"{name}: {str(problem).splitlines()[0]}") from None
    if not isinstance(raw, dict):
        raise SpecError(f"{name}:1: a job file is a mapping", hint="start with: name: my-job")
    return raw, lines


def line_of(problem: MarketError, lines: dict[str, int]) -> int | None:
    """The line of the key that an error begins with, or of the nearest key above it."""
    found = _KEY.match(str(problem))
    key = found[0] if found else ""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines[key] if key else None


def _compose(text: str, name: str) -> yaml.Node | None:
    depth = 0
    # Events first: they cost no recursion, and no alias is followed before it is refused.
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        line = event.start_mark.line + 1 if event.start_mark else 1
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise SpecError(f"{name}:{line}: anchors and aliases are not read", hint="write it out")
        if count > NODES_MAX or depth > DEPTH_MAX:
            raise SpecError(f"{name}:{line}: too much of it", hint="a job file is a page long")
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _plain(node: yaml.Node, name: str, where: str, lines: dict[str, int]) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, name, where, lines) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise SpecError(f"{name}:{line}: a key must be text")
            key = str(key_node.value)
            if key in found:
                raise SpecError(f"{name}:{line}: {key} is there twice", hint="remove one of them")
            path = f"{where}.{key}" if where else key
            lines[path] = line
            found[key] = _plain(value, name, path, lines)
        return found
    text = str(node.value)
    # Variables are text to the job: `DEBUG: true` means the word.
    if getattr(node, "style", None) is None and not where.startswith("envs.") and text in _WORDS:
        return _WORDS[text]
    return text
