"""Logs in files keep the port's contract, as their simulated twin does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from market.errors import MarketError
from node.adapters.disk.logs import Logs
from node.ports import Logs as Port
from tests.adapters.contract_logs import CONTRACT, JOB, Factory
from tests.simulation.memory import MemoryLogs


@pytest.fixture(params=["disk", "memory"])
def factory(request: pytest.FixtureRequest, tmp_path: Path) -> Factory:
    memory = MemoryLogs()

    @asynccontextmanager
    async def made() -> AsyncIterator[Port]:
        yield memory if request.param == "memory" else Logs(tmp_path / "logs")

    return made


@pytest.mark.parametrize("law", CONTRACT, ids=lambda law: law.__name__)
async def test_logs_keep(law: Callable[[Factory], Awaitable[None]], factory: Factory) -> None:
    await law(factory)


async def test_a_job_has_one_private_file(tmp_path: Path) -> None:
    await Logs(tmp_path / "logs").append(JOB, 0, b"text")
    file = tmp_path / "logs" / JOB.hex()
    assert file.read_bytes() == b"text"
    assert file.stat().st_mode & 0o777 == 0o600


async def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "victim").write_bytes(b"")
    (tmp_path / "logs" / JOB.hex()).symlink_to(tmp_path / "victim")
    with pytest.raises(MarketError):
        await Logs(tmp_path / "logs").append(JOB, 0, b"text")
    assert (tmp_path / "victim").read_bytes() == b""
