"""Query: Vast's search grammar over offers, `num_gpus>=4 gpu_name in [H100,A100]`. Pure.

Conditions are joined by "and". A text may write its spaces as `_`; case does not matter. `any` as
a value lifts a condition.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from market.errors import MarketError

TEXTS: Final = frozenset(("gpu_name", "geolocation", "driver_version", "peer", "offer", "provider"))
FLAGS: Final = frozenset(("verified", "declared"))
_NUMBERS = """num_gpus num_units gpu_ram cpu_cores cpu_ram disk_space inet_up inet_down cuda_vers
dlperf reliability dph duration expires"""
NUMBERS: Final = frozenset(_NUMBERS.split())
FIELDS: Final = TEXTS | FLAGS | NUMBERS
CONDITIONS_MAX: Final = 64  # typed by hand

_WORDS: Final = {
    "==": "=", "eq": "=", "neq": "!=", "noteq": "!=", "gt": ">", "gte": ">=", "lt": "<",
    "lte": "<=", "nin": "notin", "not in": "notin",
}  # fmt: skip
_CONDITION: Final = re.compile(
    r"""\s*(?P<field>[A-Za-z_]\w*)\s*
    (?P<op>>=|<=|!=|==|=|<|>|\b(?:not\s+in|notin|nin|in|eq|neq|noteq|gte|gt|lte|lt)\b)\s*
    (?P<value>\[[^\]]*\]|"[^"]*"|'[^']*'|[^\s\[\]"']+)(?=\s|$)""",
    re.VERBOSE,
)


class QueryError(MarketError):
    """The query cannot be read."""

    code = "bad-query"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Condition:
    """One test of one field; `values` has one element unless the operator is in or notin."""

    field: str
    operator: str
    values: tuple[str | Decimal | bool, ...]

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether the row passes. A field the row lacks never passes."""
        if row.get(self.field) is None:
            return False
        found = _read(self.field, str(row[self.field]))
        wanted = self.values[0]
        match self.operator:
            case "=" | "in":
                return found in self.values
            case "!=" | "notin":
                return found not in self.values
            case ">":
                return found > wanted  # type: ignore[operator]  # both are Decimal
            case ">=":
                return found >= wanted  # type: ignore[operator]
            case "<":
                return found < wanted  # type: ignore[operator]
            case _:
                return found <= wanted  # type: ignore[operator]


def parse_query(text: str) -> tuple[Condition, ...]:
    """The conditions in a query; none for an empty one. Raises QueryError."""
    conditions: list[Condition] = []
    position = 0
    while text[position:].strip():
        found = _CONDITION.match(text, position)
        if found is None:
            rest = text[position:].strip()
            raise QueryError(f"cannot read {rest[:40]!r}", hint="write it like: num_gpus>=4")
        position = found.end()
        condition = _condition(found["field"], " ".join(found["op"].split()), found["value"])
        if condition is not None:
            conditions.append(condition)
        if len(conditions) > CONDITIONS_MAX:
            raise QueryError(f"at most {CONDITIONS_MAX} conditions")
    return tuple(conditions)


def select(rows: Sequence[dict[str, Any]], conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    """The rows that pass every condition, in their order."""
    return [row for row in rows if all(condition.holds(row) for condition in conditions)]


def parse_order(text: str) -> tuple[tuple[str, bool], ...]:
    """`dph,num_gpus-` as (field, descending) pairs. Raises QueryError."""
    order = []
    for part in filter(None, (item.strip() for item in text.split(","))):
        name = part.rstrip("+-")
        if len(part) - len(name) > 1:
            raise QueryError(f"cannot sort by {part!r}", hint="write it like: dph,num_gpus-")
        order.append((_field(name), part.endswith("-")))
    return tuple(order)


def ordered(
    rows: Sequence[dict[str, Any]], order: Sequence[tuple[str, bool]]
) -> list[dict[str, Any]]:
    """The rows sorted by each field in turn; rows that lack one come first."""
    result = list(rows)
    for name, descending in reversed(order):
        result.sort(key=lambda row: _sort_key(name, row.get(name)), reverse=descending)
    return result


def _sort_key(name: str, value: Any) -> tuple[bool, Any]:
    return (False, 0) if value is None else (True, _read(name, str(value)))


def _condition(name: str, operator: str, value: str) -> Condition | None:
    name = _field(name)
    operator = _WORDS.get(operator, operator)
    if value.startswith("["):
        if operator not in ("=", "!=", "in", "notin"):
            raise QueryError(f"{name}: {operator} takes one value", hint=f"{name} in [A,B]")
        operator = {"=": "in", "!=": "notin"}.get(operator, operator)
        texts = [part.strip() for part in value[1:-1].split(",") if part.strip()]
        if not texts:
            raise QueryError(f"{name}: the list is empty", hint=f"{name} in [A,B]")
    elif operator in ("in", "notin"):
        raise QueryError(f"{name}: {operator} takes a list", hint=f"{name} {operator} [{value}]")
    else:
        texts = [value]
    if texts == ["any"]:
        return None
    if operator in (">", ">=", "<", "<=") and name not in NUMBERS:
        raise QueryError(f"{name}: {operator} compares numbers", hint=f"{name}={value}")
    return Condition(name, operator, tuple(_read(name, text.strip("\"'")) for text in texts))


def _field(name: str) -> str:
    if name in FIELDS:
        return name
    near = difflib.get_close_matches(name, FIELDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(FIELDS))}"
    raise QueryError(f"{name}: offers have no such field", hint=hint)


def _read(name: str, text: str) -> str | Decimal | bool:
    if name in TEXTS:
        return " ".join(text.replace("_", " ").casefold().split())
    if name in FLAGS:
        if text.casefold() not in ("true", "false"):
            raise QueryError(f"{name}: {text!r} is neither true nor false")
        return text.casefold() == "true"
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise QueryError(f"{name}: {text!r} is not a number")
    return number
