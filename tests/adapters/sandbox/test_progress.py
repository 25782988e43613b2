"""How far a job says it is, and a job that may take longer than was agreed first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.adapters.oci.progress import read_progress
from tests.adapters.sandbox.harness import Driver


@pytest.mark.parametrize(
    ("text", "ppm"),
    [("0.25", 250_000), ("0.5\n", 500_000), ("1", 1_000_000), ("7", 1_000_000), ("-1", 0),
     ("nan", 0), ("inf", 0), ("", 0), ("half", 0), ("0." + "0" * 40 + "1", 0)],
)  # fmt: skip
def test_a_number_from_0_to_1(text: str, ppm: int, tmp_path: Path) -> None:
    (tmp_path / ".progress").write_text(text)
    assert read_progress(tmp_path) == ppm


@pytest.mark.parametrize("kind", ["nothing", "link", "pipe", "folder"])
def test_what_is_no_plain_file_says_nothing(kind: str, tmp_path: Path) -> None:
    place, secret = tmp_path / ".progress", tmp_path / "secret"
    secret.write_text("0.5")
    if kind == "link":
        place.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    assert read_progress(tmp_path) == 0


@pytest.mark.sandbox
async def test_a_job_says_how_far_it_is_and_the_file_is_no_result(driver: Driver) -> None:
    work_id = await driver.started('echo 0.25 > "$GRIDSOUK_PROGRESS"; echo said; sleep 60')
    await driver.wait_log(work_id, "said")
    assert (await driver.sandbox.observe(work_id)).progress_ppm == 250_000
    await driver.sandbox.stop(work_id, 0)
    assert await driver.sandbox.collect(work_id) == ()


@pytest.mark.sandbox
async def test_a_job_that_is_lengthened_outlives_its_first_limit(driver: Driver) -> None:
    work_id = await driver.started("sleep 4; echo done", max_duration_s=2)
    await driver.sandbox.extend(work_id, 30)
    await driver.wait_log(work_id, "done")
    assert not (await driver.sandbox.observe(work_id)).timed_out
