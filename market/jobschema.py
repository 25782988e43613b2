"""Job schema: the job file as JSON Schema, for editors. `spec.parse` rules; this describes.

Source: JSON Schema 2020-12. docs/job.schema.json is written from here; a test holds both to it.
"""

from __future__ import annotations

from typing import Any, Final

from market.limits import (
    ACCELERATOR_CHOICES_MAX,
    COMMAND_BYTES_MAX,
    EGRESS_MAX,
    ENVS_MAX,
    FILES_MAX,
    NAME_CHARS_MAX,
    NODES_MAX,
    REGIONS_MAX,
    UNITS_PER_PROVIDER,
)
from market.reallocation import MOVES_MAX

_NUMBER: Final = ["integer", "number", "string"]


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "pattern": r"\S", "description": description, **more}


def _amount(description: str) -> dict[str, Any]:
    return {
        "type": ["number", "string"],
        "minimum": 0,
        "pattern": r"^\s*[\d.][\d._eE+-]*\s*$",
        "description": f"{description} In whole tokens, like 0.60.",
    }


def _span(description: str) -> dict[str, Any]:
    return {
        "type": ["number", "string"],
        "exclusiveMinimum": 0,
        "pattern": r"^\s*(\d+(\.\d+)?\s*(ms|s|m|h|d)?\s*)+$",
        "description": f"{description} Like 90s, 30m, 2h or 1h30m; a bare number is seconds.",
    }


def _size(description: str) -> dict[str, Any]:
    return {
        "type": ["number", "string"],
        "minimum": 0,
        "pattern": r"^\s*\d+(\.\d+)?\s*([KMGTkmgt]?[iI]?[bB]?)\+?\s*$",
        "description": f"{description} At least so much, like 24, 24+ or 512MB; bare is GiB.",
    }


def _count(description: str, low: int, high: int, *, plus: bool = False) -> dict[str, Any]:
    return {
        "type": ["integer", "string"],
        "minimum": low,
        "maximum": high,
        "pattern": r"^\s*\d+\+?\s*$" if plus else r"^\s*\d+\s*$",
        "description": description,
    }


def _either(one: dict[str, Any], most: int) -> dict[str, Any]:
    """One of it, or a list."""
    several = {"type": "array", "items": one, "maxItems": most}
    return {"anyOf": [one, several], "description": one.get("description", "")}


def _mapping(description: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": ["object", "null"],
        "description": description,
        "properties": properties,
        "additionalProperties": False,
    }


_MODEL: Final = {
    "anyOf": [
        {"type": "string", "pattern": r"^(\*|[A-Za-z0-9][A-Za-z0-9 ._-]{0,63})\s*(:\s*\d+\+?)?$"},
        {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": _count("How many.", 1, UNITS_PER_PROVIDER, plus=True),
        },
    ],
}

_RESOURCES: Final = {
    "accelerators": {
        "anyOf": [
            *_MODEL["anyOf"],
            {
                "type": "array",
                "items": _MODEL,
                "minItems": 1,
                "maxItems": ACCELERATOR_CHOICES_MAX,
            },
        ],
        "description": "GPU models and counts: H100:2, {RTX4090: 1}, or a list, any of which "
        "will do. CPU is a unit without one; * takes any GPU.",
    },
    "cpus": _count("Cores per unit, like 8 or 8+.", 0, 1024, plus=True),
    "memory": _size("Memory per unit."),
    "vram": _size("GPU memory per unit."),
    "disk_size": _size("Disk for the whole job."),
    "region": _either(_text("Countries or continents, like DE or EU."), REGIONS_MAX),
    "cuda": {"type": _NUMBER, "description": 'Oldest CUDA that will do, like "12.4".'},
}

_PROPERTIES: Final[dict[str, Any]] = {
    "name": {
        "type": ["string", "integer"],
        "maxLength": NAME_CHARS_MAX,
        "pattern": r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$",
        "description": "What the job is called.",
    },
    "image": _text("An image built here, a file, or one of a registry: host/name@sha256:..."),
    "run": _text("Shell command that is the job.", maxLength=COMMAND_BYTES_MAX),
    "kind": {
        "enum": ["training", "inference", "batch"],
        "description": "What kind of work it is; chooses how GPU models are compared.",
    },
    "resources": _mapping("What the machine must have.", _RESOURCES),
    "num_nodes": _count("Machines, all or none.", 1, NODES_MAX),
    "envs": {
        "type": ["object", "null"],
        "maxProperties": ENVS_MAX,
        "propertyNames": {"pattern": r"^[A-Za-z_][A-Za-z0-9_]*$"},
        "description": "Environment variables.",
    },
    "secrets": {
        "anyOf": [
            {"type": ["array", "null"], "items": {"type": "string"}},
            {"type": "object", "additionalProperties": {"type": "null"}},
        ],
        "description": "Names of secret variables; values come with --secret.",
    },
    "file_mounts": {
        "type": ["object", "null"],
        "maxProperties": FILES_MAX,
        "propertyNames": {"pattern": "^/"},
        "additionalProperties": {"type": "string"},
        "description": "Path in the job: file here, relative to the job file.",
    },
    "outputs": _either(_text("A path in the job whose files are results."), FILES_MAX),
    "max_hourly_cost": _amount("What an hour of the whole job may cost at most."),
    "max_duration": _span("How long it may run in all; at most 30d."),
    "value_of_time": _amount("What an hour of waiting costs you; 0 looks at the price alone."),
    "estimate": _span("How long it should take on the reference GPU."),
    "priority": _count("Higher goes first at providers that order so.", 0, 255),
    "deadline": {
        "type": ["integer", "string"],
        "description": "When results must be back: 6h from now, or an ISO 8601 moment.",
    },
    "min_reliability": {
        "type": ["number", "string"],
        "minimum": 0,
        "maximum": 1,
        "description": "Least share of promises kept, like 0.97.",
    },
    "max_rtt": {"type": ["number", "string"], "description": "Farthest round trip, like 40ms."},
    "verified": {"type": "boolean", "description": "Only units with a certificate that held."},
    "preemptible": {
        "type": "boolean",
        "description": "Cheaper units that their provider may take back after a grace.",
    },
    "job_recovery": _mapping(
        "What happens when a provider is lost.",
        {
            "max_attempts": _count("Providers tried in all.", 1, 16),
            "max_wait": _span("How long to look for one."),
        },
    ),
    "reallocate": {
        "anyOf": [
            {"type": "boolean"},
            _mapping("", {"max_moves": _count("At most so many.", 0, MOVES_MAX)}),
        ],
        "description": "Whether it may move to a better offer while it runs.",
    },
    "checkpoint": _mapping(
        "Where the job keeps its checkpoints.",
        {
            "path": _text("A directory in the job, like /ckpt.", pattern="^/"),
            "interval": _span("How often they are fetched."),
        },
    ),
    "ports": _either(_count("A port that the job listens on.", 1, 65535), 16),
    "egress": _either(_text("What the job may reach, like data.example.org:443."), EGRESS_MAX),
}


def job_schema() -> dict[str, Any]:
    """The schema of a job file, as plain JSON values."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gridsouk job file",
        "type": "object",
        "required": ["image", "run", "max_hourly_cost", "max_duration"],
        "properties": _PROPERTIES,
        "additionalProperties": False,
    }
