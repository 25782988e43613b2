"""Metrics over HTTP: the node's gauges in Prometheus's text format, and whether it is well.

Names begin with `souk_`; docs/grafana/gridsouk.json draws them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from node.control import Control


class _Gauges(Collector):  # type: ignore[misc]  # the library is untyped here
    """Reads the desk whenever it is collected."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def collect(self) -> Iterable[Metric]:
        """Readings of one name as one family."""
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for reading in self._control.gauges.readings():
            name = f"souk_{reading.name}"
            labels = [label for label, _ in reading.labels]
            if name not in families:
                family = CounterMetricFamily if reading.kind == "counter" else GaugeMetricFamily
                families[name] = family(name, reading.help, labels=labels)
            families[name].add_metric([value for _, value in reading.labels], reading.value)
        return families.values()


def metrics_routes(control: Control) -> APIRouter:
    """/metrics, /healthz and /readyz."""
    router = APIRouter()
    registry = CollectorRegistry()
    registry.register(_Gauges(control))

    @router.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        """Prometheus's text format."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @router.get("/healthz")
    async def healthz() -> dict[str, bool]:
        """The node's loop turns: it answers."""
        return {"ok": True}

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        """200 if the node can trade, 503 with what it waits for if not."""
        waiting = control.network.waiting_for()
        return JSONResponse(
            {"ready": not waiting, "waiting_for": waiting}, status_code=503 if waiting else 200
        )

    return router
