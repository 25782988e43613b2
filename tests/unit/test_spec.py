"""Spec: the example parses, and every mistake is named by its key and told what to write."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from market.codec import decode, encode
from market.errors import SpecError
from market.job import Bid
from market.spec import KEYS, RESOURCE_KEYS, Mount, Spec, parse
from market.terms import Accelerator, Env, Requirements, Workload
from market.units import format_money, parse_duration_s, parse_money, parse_size_mib

EXAMPLE = Path(__file__).parents[2] / "examples" / "train.yaml"
LEAST = {"image": "base", "run": "true", "max_hourly_cost": "3.6", "max_duration": "10m"}


def spec(**changes: Any) -> Spec:
    return parse({**LEAST, **changes}, decimals=6)


def test_the_example_parses() -> None:
    value = parse(yaml.safe_load(EXAMPLE.read_text()), decimals=6)
    assert (value.name, value.image, value.run) == ("digits", "base", "python3 /in/train.py")
    assert value.workload is Workload.TRAINING
    assert value.requirements.accelerators == (Accelerator("CPU", 1),)
    assert (value.cpus, value.memory_mib, value.disk_mib) == (1, 512, 256)
    assert value.envs == (Env("EPOCHS", "80"),)
    assert value.mounts[1] == Mount("/in/train.py", "./train.py")
    assert (value.outputs, value.checkpoint_path) == (("/out",), "/ckpt")
    assert (value.checkpoint_interval_s, value.bid.max_duration_s) == (3, 600)
    assert value.bid.max_price_per_hour == 36_000_000


def test_four_lines_are_enough() -> None:
    value = spec()
    assert (value.name, value.num_nodes, value.bid.max_attempts) == ("job", 1, 5)
    assert value.requirements.accelerators == (Accelerator("*", 1),)
    assert value == spec(name=None, kind=None, resources={"accelerators": None}, envs=None)


def test_the_price_is_per_unit() -> None:
    for text in ("RTX 4090:8+", "RTX 4090 : 8", {"RTX 4090": "8+"}, ["RTX 4090:8"]):
        plus = spec(resources={"accelerators": text, "cpus": "8+", "vram": "24+", "memory": "1GB+"})
        want = plus.requirements
        assert want.accelerators == (Accelerator("RTX 4090", 8),)
        assert (want.cpus, want.vram_mib, want.memory_mib) == (8, 24 * 1024, 1024)
    value = spec(resources={"accelerators": ["H100:2", {"A100": 4}]})
    assert value.requirements.accelerators == (Accelerator("H100", 2), Accelerator("A100", 4))
    assert (value.bid.max_price_per_hour, value.bid.value_of_time_per_hour) == (900_000, 3_600_000)


WRONG: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"max_duraton": "1h"}, "max_duraton: no such key", "did you mean max_duration?"),
    ({"resources": {"gpus": 1}}, "resources.gpus: no such key", ""),
    ({"resources": {"memry": 1}}, "resources.memry: no such key", "resources.memory"),
    ({"checkpoint": {"paths": "/c"}}, "checkpoint.paths: no such key", "checkpoint.path"),
    ({"resources": "big"}, "resources: must be a mapping", ""),
    ({"image": None}, "image: missing", "image: base"),
    ({"run": None}, "run: missing", "run: python train.py"),
    ({"max_hourly_cost": None}, "max_hourly_cost: missing", "0.60"),
    ({"max_duration": None}, "max_duration: missing", "2h"),
    ({"max_duration": "soon"}, "max_duration: 'soon' is not a duration", "1h30m"),
    ({"max_duration": "10 parsecs"}, "max_duration: ", "1h30m"),
    ({"max_duration": -5}, "max_duration: -5 is not a duration", "1h30m"),
    ({"max_duration": 0}, "max_duration: 0 is not a duration", "1h30m"),
    ({"max_duration": "31d"}, "max_duration: at most 30 days", "checkpoints"),
    ({"max_hourly_cost": "cheap"}, "max_hourly_cost: 'cheap' is not an amount", "0.60"),
    ({"max_hourly_cost": -1}, "max_hourly_cost: -1 is not an amount", ""),
    ({"max_hourly_cost": "nan"}, "max_hourly_cost: 'nan' is not an amount", ""),
    ({"max_hourly_cost": "1e999999"}, "max_hourly_cost: '1e999999' is not an amount", ""),
    ({"max_hourly_cost": "0.0000001"}, "max_hourly_cost: '0.0000001' is finer", ""),
    ({"resources": {"memory": "12 apples"}}, "memory: '12 apples' is not a size", "24GB"),
    ({"resources": {"memory": -1}}, "memory: '-1' is not a size", "24GB"),
    ({"resources": {"vram": "9" * 60}}, "is more than any machine has", "24GB"),
    ({"resources": {"cpus": "9" * 5000}}, "cpus: ", ""),
    ({"resources": {"cpus": True}}, "cpus: True is not a whole number", ""),
    ({"resources": {"cuda": "12.999999999"}}, "cuda: ", "12.4"),
    ({"resources": {"region": "é" * 40}}, "region: is too long", "DE or EU"),
    ({"resources": {"accelerators": "H100:0"}}, "resources.accelerators.H100: '0' is not", ""),
    ({"resources": {"accelerators": "x" * 65}}, "resources.accelerators: ", ""),
    ({"resources": {"accelerators": "-H100"}}, "resources.accelerators: '-H100'", "RTX4090:1"),
    ({"resources": {"accelerators": 4}}, "resources.accelerators: '4'", "RTX4090:1"),
    ({"resources": {"accelerators": []}}, "resources.accelerators: 1 to 16", "any GPU"),
    ({"resources": {"accelerators": "H100:-2"}}, "resources.accelerators.H100: '-2'", ""),
    ({"max_rtt": 0.0001}, "max_rtt: 0.0001 is not between", "40ms"),
    ({"num_nodes": "2+"}, "num_nodes: '2+'", ""),
    ({"resources": {"accelerators": ["A"] * 17}}, "resources.accelerators: 1 to 16", ""),
    ({"run": "x" * 40_000}, "run: is too long", "file_mounts"),
    ({"name": "my job"}, "name: 'my job' is not a name", "letters"),
    ({"name": "x" * 65}, "is not a name", "up to 64"),
    ({"kind": "magic"}, "kind: 'magic'", "training, inference or batch"),
    ({"envs": {"1X": "y"}}, "envs.1X: not a variable name", "letters"),
    ({"envs": {"X": "y" * 9000}}, "envs.X: the value is too long", "mount a file"),
    ({"envs": ["X=1"]}, "envs: must be a mapping", ""),
    ({"secrets": {"KEY": "123"}}, "secrets: a value in the job file", "--secret NAME"),
    ({"secrets": "KEY"}, "secrets: must be a list", "secrets: [HF_TOKEN]"),
    ({"outputs": "out"}, "outputs: 'out' is not a path", "/out"),
    ({"outputs": ["/"]}, "outputs: '/' is not a path", "/out"),
    ({"outputs": ["//"]}, "outputs: '//' is not a path", "/out"),
    ({"outputs": ["/proc/self"]}, "outputs: '/proc/self' belongs to the system", "another"),
    ({"outputs": ["//proc/self"]}, "outputs: '//proc/self' belongs to the system", "another"),
    ({"outputs": ["/out/../dev/sda"]}, "belongs to the system", "another"),
    ({"outputs": ["/" + "é" * 200]}, "outputs: ", "/out"),
    ({"file_mounts": {"/sys/x": "a"}}, "file_mounts: '/sys/x' belongs to the system", "another"),
    ({"file_mounts": {None: "a"}}, "file_mounts: must be text", ""),
    ({"file_mounts": {"/a": None}}, "file_mounts: must be text", ""),
    ({"file_mounts": ["a"]}, "file_mounts: must be a mapping", ""),
    ({"ports": [0]}, "ports: 0 is not a whole number from 1 to 65535", ""),
    ({"num_nodes": 65}, "num_nodes: 65 is not a whole number", ""),
    ({"priority": 256}, "priority: 256 is not a whole number", ""),
    ({"min_reliability": "1.5"}, "min_reliability: '1.5' is not between 0 and 1", "0.97"),
    ({"max_rtt": "nan"}, "max_rtt: 'nan' is not between", ""),
    ({"max_rtt": "far"}, "max_rtt: 'far' is not a round trip", "40ms"),
    ({"egress": ["data.example.org"]}, "egress: 'data.example.org' names no port", ""),
    ({"verified": "yes"}, "verified: must be true or false", ""),
    ({"job_recovery": {"max_attempts": 0}}, "max_attempts: 0 is not a whole number", ""),
    ({"image": "\ud800"}, "half a character", "UTF-8"),
)


@pytest.mark.parametrize(("changes", "says", "hint"), WRONG, ids=[wrong[1] for wrong in WRONG])
def test_a_mistake_is_named(changes: dict[str, Any], says: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec(**changes)
    assert says in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize("raw", [None, [], "run: x", 3])
def test_a_job_file_is_a_mapping(raw: object) -> None:
    with pytest.raises(SpecError, match="is a mapping"):
        parse(raw, decimals=6)


_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=12)
    | st.sampled_from(("1h", "24GB", "0.6", "/out", "H100:2", "1e99999", "9" * 70, "-1", "١٢"))
)  # fmt: skip
_TREES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(_SCALARS | st.sampled_from(sorted(RESOURCE_KEYS)), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(KEYS)), _TREES, max_size=4))
def test_any_mapping_is_a_spec_that_travels_or_a_spec_error(raw: dict[str, Any]) -> None:
    try:
        value = spec(**raw)
    except SpecError:
        return
    assert decode(Requirements, encode(value.requirements)) == value.requirements
    assert decode(Bid, encode(value.bid)) == value.bid


@settings(deadline=None)
@given(_SCALARS)
def test_units_refuse_in_our_words(text: Any) -> None:
    for read in (parse_duration_s, parse_size_mib, lambda said: parse_money(said, 6)):
        with contextlib.suppress(SpecError):
            assert read(text) >= 0


@settings(deadline=None)
@given(st.integers(0, 2**96 - 1), st.integers(0, 18))
def test_money_comes_back_as_it_was_written(amount: int, decimals: int) -> None:
    assert parse_money(format_money(amount, decimals), decimals) == amount


def test_a_gang_shares_the_hourly_cost() -> None:
    value = spec(num_nodes=3, resources={"accelerators": "H100:2"}, max_hourly_cost="3.6")
    assert (value.num_nodes, value.bid.max_price_per_hour) == (3, 600_000)


@pytest.mark.parametrize(
    ("said", "at_s", "in_s"),
    [
        ("6h", 0, 21_600),
        (1_800_000_000, 1_800_000_000, 0),
        ("2027-01-15T08:00+00:00", 1_800_000_000, 0),
        ("2027-01-15T09:00+01:00", 1_800_000_000, 0),
        (yaml.safe_load("2027-01-15 08:00:00"), 1_800_000_000, 0),
        (None, 0, 0),
    ],
)
def test_a_deadline_is_a_moment_or_a_span(said: Any, at_s: int, in_s: int) -> None:
    value = spec(deadline=said)
    assert (value.bid.deadline_at_s, value.deadline_in_s) == (at_s, in_s)


@pytest.mark.parametrize(
    ("said", "keeps", "moves"),
    [
        (None, True, 3), (None, False, 0), (True, False, 3), (False, True, 0),
        ({"max_moves": 1}, True, 1), ({"max_moves": 0}, True, 0),
    ],
)  # fmt: skip
def test_who_keeps_checkpoints_may_move(said: Any, keeps: bool, moves: int) -> None:
    checkpoint = {"path": "/ckpt"} if keeps else None
    assert spec(reallocate=said, checkpoint=checkpoint).bid.max_moves == moves


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"deadline": "noon"}, "neither a moment nor a span"),
        ({"reallocate": "yes please"}, "reallocate: must be true, false"),
        ({"reallocate": {"moves": 1}}, "reallocate.moves: no such key"),
        ({"num_nodes": 65}, "not a whole number from 1 to 64"),
    ],
)
def test_what_is_wrong_about_moving_is_said(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        spec(**wrong)
