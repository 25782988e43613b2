"""The job file's JSON Schema: knows every key, and never complains of a file that is in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from market.errors import SpecError
from market.jobschema import job_schema
from market.spec import CHECKPOINT_KEYS, KEYS, REALLOCATE_KEYS, RECOVERY_KEYS, RESOURCE_KEYS, parse
from node.client.jobfile import read_job_file

ROOT = Path(__file__).parents[2]
SCHEMA = job_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
LEAST = {"image": "base", "run": "true", "max_hourly_cost": "3.6", "max_duration": "10m"}

SPANS: list[Any] = [90, "90", "90s", "1h30m", "2 h", "1.5h", "0s", "-1s", "soon", None, 1e12]
AMOUNTS: list[Any] = [0, 1, 0.6, "0.60", "60", "-1", "1e3", "lots", True, None]
SIZES: list[Any] = [1, 24, "24+", "24GB", "512MB", "1.5TiB", "-1", "big", None, "8k"]
COUNTS: list[Any] = [0, 1, 8, "8", "8+", -1, 1.5, "many", True, None, 70000]
VALUES: dict[str, list[Any]] = {
    "name": ["a", "a.b-c_1", "", "-a", "a b", 7, None],
    "image": ["base", "host.example/a/b@sha256:" + "0" * 64, "", None],
    "run": ["true", " ", "x" * 40_000, None],
    "kind": ["training", "inference", "batch", "game", None],
    "num_nodes": COUNTS,
    "envs": [{"A": 1}, {"A": None, "B": True}, {"1A": 1}, [], None],
    "secrets": [["A"], {"A": None}, {"A": "value"}, "A", None],
    "file_mounts": [{"/in/a": "a"}, {"in": "a"}, {"/in/a": 3}, [], None],
    "outputs": ["/out", ["/out", "/b"], "out", [], None],
    "max_hourly_cost": AMOUNTS,
    "value_of_time": AMOUNTS,
    "max_duration": SPANS,
    "estimate": SPANS,
    "priority": COUNTS,
    "deadline": ["6h", "2027-01-31T08:00+00:00", 1_900_000_000, "later", None],
    "min_reliability": [0, 1, 0.97, "0.97", 2, "x", None],
    "max_rtt": ["40ms", 40, "x", None],
    "verified": [True, False, "yes", None],
    "preemptible": [True, False, 1, None],
    "job_recovery": [{"max_attempts": 3, "max_wait": "1h"}, {"max_tries": 3}, [], None],
    "reallocate": [True, False, {"max_moves": 2}, {"moves": 2}, "yes", None],
    "checkpoint": [{"path": "/ckpt", "interval": "30s"}, {"path": "ckpt"}, None],
    "ports": [8000, [80, "8000"], 0, "http", None],
    "egress": ["data.example.org:443", ["a.example:80"], "nothing", None],
}
RESOURCES: dict[str, list[Any]] = {
    "accelerators": [
        "H100", "H100:2", "RTX 4090 : 8+", {"RTX4090": 1}, ["H100:1", {"A100": "2"}], "*:1",
        "CPU:1", "H100:0", {}, [], 7, None,
    ],
    "cpus": COUNTS,
    "memory": SIZES,
    "vram": SIZES,
    "disk_size": SIZES,
    "region": ["DE", ["DE", "EU"], "", None],
    "cuda": [12, 12.4, "12.4", "12.4+", "new", None],
}  # fmt: skip


def _without_nothing(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if value is not None}


def _parses(raw: dict[str, Any]) -> bool:
    try:
        parse(raw, decimals=6)
    except SpecError:
        return False
    return True


def test_it_is_a_schema_and_the_published_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    published = json.loads((ROOT / "docs" / "job.schema.json").read_text())
    assert published == SCHEMA, "write it anew: souk schema > docs/job.schema.json"


def test_it_knows_every_key() -> None:
    known = SCHEMA["properties"]
    assert known.keys() == KEYS == VALUES.keys() | {"resources"}
    assert known["resources"]["properties"].keys() == RESOURCE_KEYS == RESOURCES.keys()
    assert known["job_recovery"]["properties"].keys() == RECOVERY_KEYS
    assert known["checkpoint"]["properties"].keys() == CHECKPOINT_KEYS
    moves = known["reallocate"]["anyOf"][1]
    assert moves["properties"].keys() == REALLOCATE_KEYS
    assert all(one.get("description") for one in known.values())


@pytest.mark.parametrize(
    "example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name
)
def test_every_example_is_in_order(example: Path) -> None:
    VALIDATOR.validate(read_job_file(example).raw)  # as souk reads it: scalars are text
    VALIDATOR.validate(yaml.safe_load(example.read_text()))  # as an editor does


@given(
    st.fixed_dictionaries({}, optional={key: st.sampled_from(v) for key, v in VALUES.items()}),
    st.fixed_dictionaries({}, optional={key: st.sampled_from(v) for key, v in RESOURCES.items()}),
)
@settings(max_examples=300, deadline=None)
def test_what_souk_takes_no_editor_complains_of(
    keys: dict[str, Any], resources: dict[str, Any]
) -> None:
    raw = {**LEAST, **_without_nothing(keys), "resources": _without_nothing(resources)}
    if _parses(raw):
        errors = [error.message for error in VALIDATOR.iter_errors(raw)]
        assert not errors, (raw, errors)


@pytest.mark.parametrize("key", sorted(VALUES))
def test_each_value_that_parses_fits_and_most_others_do_not(key: str) -> None:
    caught = 0
    wrong = 0
    for value in _without_nothing(dict(enumerate(VALUES[key]))).values():  # type: ignore[arg-type]
        raw = {**LEAST, key: value}
        fits = VALIDATOR.is_valid(raw)
        if _parses(raw):
            assert fits, raw
        else:
            wrong += 1
            caught += not fits
    assert caught or wrong <= 1, key  # an editor that marks nothing helps nobody


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {**LEAST, "max_duratoin": "2h"},
        {**LEAST, "resources": {"gpu": 1}},
        {key: value for key, value in LEAST.items() if key != "run"},
        {**LEAST, "checkpoint": {"dir": "/ckpt"}},
    ],
)
def test_unknown_and_missing_keys_are_marked(raw: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(raw)
