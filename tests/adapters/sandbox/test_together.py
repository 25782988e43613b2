"""A failure among questions that are asked side by side is a failure, and says whose it is."""

from __future__ import annotations

from typing import cast

import pytest

from tests.adapters.sandbox.harness import Driver
from tests.adapters.sandbox.together import together


class Nobody:
    """Enough of a driver to be named."""

    kind = "nobody"


async def fine(driver: Driver) -> None:
    assert driver.kind == "nobody"


async def broken(driver: Driver) -> None:
    raise AssertionError(f"{driver.kind} keeps no law")


async def test_each_failure_is_told_and_the_others_are_asked() -> None:
    asked = [("one", fine), ("two", broken), ("three", fine), ("four", broken)]
    with pytest.raises(ExceptionGroup) as caught:
        await together(cast(Driver, Nobody()), asked)
    notes = sorted(problem.__notes__[0] for problem in caught.value.exceptions)
    assert notes == ["in: four", "in: two"]
    await together(cast(Driver, Nobody()), [("one", fine)])
