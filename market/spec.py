"""Spec: the job file, checked. A mapping in, a `Spec` out; every mistake named with what to write.

Reads no file and knows no YAML: it is handed the parsed mapping. Names are SkyPilot's.
"""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from market.errors import SpecError
from market.job import Bid
from market.limits import (
    ACCELERATOR_CHOICES_MAX,
    COMMAND_BYTES_MAX,
    EGRESS_MAX,
    ENV_BYTES_MAX,
    ENVS_MAX,
    FILES_MAX,
    JOB_DURATION_MAX_S,
    NAME_CHARS_MAX,
    NODES_MAX,
    REGIONS_MAX,
    UNITS_PER_PROVIDER,
)
from market.models import ANY
from market.reach import parse_target
from market.reallocation import MOVES_MAX
from market.terms import Accelerator, Env, Requirements, Workload
from market.units import PPM, parse_duration_s, parse_money, parse_size_mib

T = TypeVar("T")

_KEYS = """name image resources num_nodes envs secrets file_mounts outputs run kind
max_hourly_cost max_duration value_of_time estimate priority deadline min_reliability max_rtt
verified job_recovery reallocate preemptible checkpoint ports egress"""
KEYS: Final = frozenset(_KEYS.split())
_RESOURCE_KEYS = "accelerators cpus memory vram disk_size region cuda"
RESOURCE_KEYS: Final = frozenset(_RESOURCE_KEYS.split())
RECOVERY_KEYS: Final = frozenset(("max_attempts", "max_wait"))
REALLOCATE_KEYS: Final = frozenset(("max_moves",))
CHECKPOINT_KEYS: Final = frozenset(("path", "interval"))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MODEL = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")  # as offers name GPUs
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Mount:
    """A file of the requester at a path in the job."""

    target: str
    source: str


@dataclass(frozen=True, slots=True)
class Deadline:
    """When results must be back: Unix seconds, or seconds from the submission on; 0: no matter."""

    at_s: int = 0
    in_s: int = 0


@dataclass(frozen=True, slots=True)
class Spec:
    """A checked job file. `secrets` are names; their values come from elsewhere."""

    name: str
    image: str
    run: str
    workload: Workload
    requirements: Requirements
    bid: Bid
    cpus: int
    memory_mib: int
    disk_mib: int
    num_nodes: int
    deadline_in_s: int  # from its submission on; 0: the bid says when, or never
    envs: tuple[Env, ...]
    secrets: tuple[str, ...]
    mounts: tuple[Mount, ...]
    outputs: tuple[str, ...]
    checkpoint_path: str
    checkpoint_interval_s: int
    ports: tuple[int, ...]


def parse(raw: object, *, decimals: int) -> Spec:
    """The spec in a job file's top-level mapping; `decimals` are the settlement token's.

    Raises SpecError, which names the key and says what to write.
    """
    if not isinstance(raw, Mapping):
        raise SpecError("a job file is a mapping", hint="start with: name: my-job")
    try:
        return _parsed(raw, decimals)
    except UnicodeEncodeError:
        raise SpecError("the job file holds half a character", hint="save it as UTF-8") from None


def _parsed(raw: Mapping[str, Any], decimals: int) -> Spec:
    _known(raw, KEYS, "")
    resources = _mapping(raw, "resources", RESOURCE_KEYS)
    accelerators = _accelerators(resources.get("accelerators"))
    units = max(choice.count for choice in accelerators)
    recovery = _mapping(raw, "job_recovery", RECOVERY_KEYS)
    checkpoint = _mapping(raw, "checkpoint", CHECKPOINT_KEYS)
    deadline = _value(raw, "deadline", _deadline, Deadline())
    num_nodes = _value(raw, "num_nodes", _count(1, NODES_MAX), 1)
    max_hourly = _required(raw, "max_hourly_cost", lambda v: parse_money(v, decimals))
    duration_s = _required(raw, "max_duration", parse_duration_s)
    if duration_s > JOB_DURATION_MAX_S:
        raise SpecError("max_duration: at most 30 days", hint="split the job by checkpoints")
    return Spec(
        name=_name(raw.get("name") or "job"),
        image=_required(raw, "image", _text),
        run=_required(raw, "run", _command),
        workload=_workload(raw.get("kind") or "batch"),
        requirements=Requirements(
            accelerators=accelerators,
            vram_mib=_value(resources, "vram", _size, 0),
            cpus=_value(resources, "cpus", _at_least(0, 1024), 0),
            memory_mib=_value(resources, "memory", _size, 0),
            disk_mib=_value(resources, "disk_size", _size, 1024),
            cuda_vers=_value(resources, "cuda", _cuda, 0),
            regions=_value(resources, "region", _texts(REGIONS_MAX), ()),
            max_rtt_us=_value(raw, "max_rtt", _rtt_us, 0),
            min_reliability_ppm=_value(raw, "min_reliability", _fraction_ppm, 0),
            verified=_value(raw, "verified", _flag, False),
            egress=_value(raw, "egress", _targets, ()),
        ),
        bid=Bid(
            max_price_per_hour=max_hourly // (units * num_nodes),
            value_of_time_per_hour=_value(
                raw, "value_of_time", lambda v: parse_money(v, decimals), max_hourly
            ),
            max_duration_s=duration_s,
            deadline_at_s=deadline.at_s,
            priority=_value(raw, "priority", _count(0, 255), 0),
            max_wait_s=_value(recovery, "max_wait", parse_duration_s, 600),
            max_attempts=_value(recovery, "max_attempts", _count(1, 16), 5),
            estimate_s=_value(raw, "estimate", parse_duration_s, 0),
            preemptible=_value(raw, "preemptible", _flag, False),
            max_moves=_max_moves(raw, bool(checkpoint.get("path"))),
        ),
        cpus=_value(resources, "cpus", _at_least(0, 1024), 0) or 1,
        memory_mib=_value(resources, "memory", _size, 0) or 512,
        disk_mib=_value(resources, "disk_size", _size, 1024),
        num_nodes=num_nodes,
        deadline_in_s=deadline.in_s,
        envs=_envs(raw.get("envs")),
        secrets=_secret_names(raw.get("secrets")),
        mounts=_mounts(raw.get("file_mounts")),
        outputs=_value(raw, "outputs", _paths, ()),
        checkpoint_path=_value(checkpoint, "path", _path, ""),
        checkpoint_interval_s=_value(checkpoint, "interval", parse_duration_s, 60),
        ports=_value(raw, "ports", _ports, ()),
    )


def _known(raw: Mapping[Any, Any], keys: frozenset[str], where: str) -> None:
    for key in raw:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, n=1)
            hint = (
                f"did you mean {where}{near[0]}?" if near else f"known: {', '.join(sorted(keys))}"
            )
            raise SpecError(f"{where}{key}: no such key", hint=hint)


def _mapping(raw: Mapping[str, Any], key: str, keys: frozenset[str]) -> Mapping[str, Any]:
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SpecError(f"{key}: must be a mapping of {', '.join(sorted(keys))}")
    _known(value, keys, f"{key}.")
    return value


_EXAMPLES: Final = {
    "image": "image: base",
    "run": "run: python train.py",
    "max_hourly_cost": "max_hourly_cost: 0.60",
    "max_duration": "max_duration: 2h",
}


def _required(raw: Mapping[str, Any], key: str, read: Callable[[Any], T]) -> T:
    value = raw.get(key)
    if value is None:
        raise SpecError(f"{key}: missing", hint=f"add a line like: {_EXAMPLES[key]}")
    return _checked(key, value, read)


def _value(raw: Mapping[str, Any], key: str, read: Callable[[Any], T], default: T) -> T:
    value = raw.get(key)
    return default if value is None else _checked(key, value, read)


def _checked(key: str, value: Any, read: Callable[[Any], T]) -> T:
    try:
        return read(value)
    except SpecError as problem:
        raise SpecError(f"{key}: {problem}", hint=problem.hint) from None


def _deadline(value: Any) -> Deadline:
    """A moment (ISO 8601, or Unix seconds), or a span from the submission on (like 6h)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Deadline(at_s=_count(0, 2**40 - 1)(value))
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        try:
            return Deadline(in_s=parse_duration_s(str(value)))
        except SpecError:
            raise SpecError(
                f"{value!r} is neither a moment nor a span",
                hint="write it like 6h, or like 2027-01-31T08:00+00:00",
            ) from None
    at = moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # as YAML reads it
    return Deadline(at_s=max(0, int(at.timestamp())))


def _max_moves(raw: Mapping[str, Any], keeps_checkpoints: bool) -> int:
    """A job without checkpoints would begin anew: it moves only if it is told to."""
    if isinstance(value := raw.get("reallocate"), bool):
        return MOVES_MAX if value else 0
    if not isinstance(value, Mapping | None):
        raise SpecError("reallocate: must be true, false, or a mapping of max_moves")
    rules = _mapping(raw, "reallocate", REALLOCATE_KEYS)
    most = MOVES_MAX if keeps_checkpoints or rules else 0
    return _value(rules, "max_moves", _count(0, MOVES_MAX), most)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value.encode()) > 4096:
        raise SpecError("must be text")
    return value.strip()


def _command(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SpecError("must be a shell command")
    if len(value.encode()) > COMMAND_BYTES_MAX or "\0" in value:
        raise SpecError("is too long", hint="put it into a file and mount that with file_mounts")
    return value


def _name(value: Any) -> str:
    text = str(value)
    if len(text) > NAME_CHARS_MAX or not _NAME.fullmatch(text):
        raise SpecError(
            f"name: {text!r} is not a name", hint="letters, digits, dot, dash; up to 64"
        )
    return text


def _workload(value: Any) -> Workload:
    try:
        return Workload(value)
    except ValueError:
        raise SpecError(f"kind: {value!r}", hint="training, inference or batch") from None


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise SpecError("must be true or false")
    return value


def _count(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        text = str(value).strip()
        plain = not isinstance(value, bool) and text.isdecimal() and len(text) <= 16
        if not plain or not low <= int(text) <= high:
            raise SpecError(f"{value!r} is not a whole number from {low} to {high}")
        return int(text)

    return read


def _at_least(low: int, high: int) -> Callable[[Any], int]:
    """A count that may be written `8+`: every requirement is a minimum, with or without it."""

    def read(value: Any) -> int:
        plain = value if isinstance(value, bool) else str(value).strip().removesuffix("+")
        return _count(low, high)(plain)

    return read


def _size(value: Any) -> int:
    return parse_size_mib(str(value).strip().removesuffix("+"))


def _fraction_ppm(value: Any) -> int:
    ppm = parse_money(value, 6)
    if ppm > PPM:
        raise SpecError(f"{value!r} is not between 0 and 1", hint="write it like 0.97")
    return ppm


def _rtt_us(value: Any) -> int:
    text = str(value).strip().removesuffix("ms")
    try:
        rtt = float(text)
    except ValueError:
        raise SpecError(f"{value!r} is not a round trip", hint="write it like 40ms") from None
    if not 0.001 <= rtt < 60_000:
        raise SpecError(f"{value!r} is not between 0 and 60000 ms", hint="write it like 40ms")
    return int(rtt * 1000)


def _cuda(value: Any) -> int:
    major, _, minor = str(value).removesuffix("+").partition(".")
    numbers = major.isdecimal() and (minor or "0").isdecimal()
    if not numbers or len(major) > 2 or len(minor) > 2:
        raise SpecError(f"{value!r} is not a CUDA version", hint='write it like "12.4"')
    return int(major) * 100 + int(minor or "0")


def _texts(most: int) -> Callable[[Any], tuple[str, ...]]:
    def read(value: Any) -> tuple[str, ...]:
        values = value if isinstance(value, list) else [value]
        if len(values) > most:
            raise SpecError(f"at most {most}")
        texts = tuple(_text(item) for item in values)
        if any(len(text.encode()) > 64 for text in texts):
            raise SpecError("is too long", hint="a country or a continent, like DE or EU")
        return texts

    return read


def _accelerators(value: Any) -> tuple[Accelerator, ...]:
    """`H100:2`, `{H100: 2}`, or a list of either, any of which will do; a count may be `2+`."""
    choices: list[tuple[str, Any]] = []
    value = ANY if value is None else value
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, Mapping):
            choices += [(str(name), count) for name, count in item.items()]
        else:
            name, colon, count = str(item).rpartition(":")
            choices.append((name, count) if colon else (count, 1))
    if not 1 <= len(choices) <= ACCELERATOR_CHOICES_MAX:
        raise SpecError(
            f"resources.accelerators: 1 to {ACCELERATOR_CHOICES_MAX} choices",
            hint="write it like RTX4090:1, or leave it out for any GPU",
        )
    read = _at_least(1, UNITS_PER_PROVIDER)
    found = []
    for written, count in choices:
        name = written.strip()
        if name != ANY and not _MODEL.fullmatch(name):
            raise SpecError(
                f"resources.accelerators: {name!r} is not a model", hint="write it like RTX4090:1"
            )
        key = f"resources.accelerators.{name}"
        found.append(Accelerator(name, _value({key: count}, key, read, 1)))
    return tuple(found)


def _envs(value: Any) -> tuple[Env, ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping) or len(value) > ENVS_MAX:
        raise SpecError(f"envs: must be a mapping of at most {ENVS_MAX} names to values")
    return tuple(env(str(name), item) for name, item in sorted(value.items(), key=str))


def env(name: str, value: Any) -> Env:
    """One checked environment variable. Raises SpecError."""
    if not _ENV_NAME.fullmatch(name) or len(name) > 256:
        raise SpecError(f"envs.{name}: not a variable name", hint="letters, digits and _")
    text = "" if value is None else str(value)
    if len(text.encode()) > ENV_BYTES_MAX or "\0" in text:
        raise SpecError(f"envs.{name}: the value is too long", hint="mount a file instead")
    return Env(name, text)


def _secret_names(value: Any) -> tuple[str, ...]:
    names = list(value) if isinstance(value, Mapping | list) else []
    if value is not None and not isinstance(value, Mapping | list):
        raise SpecError("secrets: must be a list of names", hint="secrets: [HF_TOKEN]")
    if isinstance(value, Mapping) and any(item is not None for item in value.values()):
        raise SpecError("secrets: a value in the job file is not a secret",
                        hint="give it with --secret NAME, read from the environment")  # fmt: skip
    return tuple(env(str(name), "").name for name in names[:ENVS_MAX])


def _path(value: Any) -> str:
    text = _text(value)
    clean = "/" + posixpath.normpath(text).lstrip("/")  # POSIX lets two slashes stand
    if not text.startswith("/") or clean == "/" or len(clean.encode()) > 256 or "\0" in text:
        raise SpecError(f"{text!r} is not a path in the job", hint="absolute, like /out")
    if clean.split("/")[1] in ("proc", "sys", "dev"):
        raise SpecError(f"{text!r} belongs to the system", hint="choose another directory")
    return clean


def _paths(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if len(values) > FILES_MAX:
        raise SpecError(f"at most {FILES_MAX}")
    return tuple(_path(item) for item in values)


def _mounts(value: Any) -> tuple[Mount, ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping) or len(value) > FILES_MAX:
        raise SpecError("file_mounts: must be a mapping of path in the job to local file")
    return tuple(
        Mount(
            _checked("file_mounts", target, _path),
            _checked("file_mounts", source, _text),
        )
        for target, source in sorted(value.items(), key=str)
    )


def _ports(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    if len(values) > 16:
        raise SpecError("at most 16")
    return tuple(_count(1, 65535)(item) for item in values)


def _targets(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if len(values) > EGRESS_MAX:
        raise SpecError(f"at most {EGRESS_MAX}")
    return tuple(dict.fromkeys(str(parse_target(_text(item))) for item in values))
