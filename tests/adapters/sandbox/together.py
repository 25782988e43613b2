"""Together: what is asked of one driver, a few questions at a time; each failure says whose it is.

A job mostly waits: for a mount, an engine, a clock. Tests of one driver that do not look at the
others' jobs wait side by side.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

from tests.adapters.sandbox.harness import Driver

AT_ONCE: Final = 1 if "GRIDSOUK_BASE_IMAGE" in os.environ else 4  # an emulated machine is slow
Question = Callable[[Driver], Awaitable[None]]


async def together(driver: Driver, questions: Iterable[tuple[str, Question]]) -> None:
    """Ask them all; raises an ExceptionGroup of what failed, each with its name as a note."""
    problems: list[Exception] = []
    turn = trio.Semaphore(AT_ONCE)

    async def ask(name: str, question: Question) -> None:
        async with turn:
            try:
                await question(driver)
            except Exception as problem:
                problem.add_note(f"in: {name}")
                problems.append(problem)

    async with trio.open_nursery() as nursery:
        for name, question in questions:
            nursery.start_soon(ask, name, question)
    if problems:
        raise ExceptionGroup(f"{len(problems)} failed on {driver.kind}", problems)
