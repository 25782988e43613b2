"""Spans of one job are one trace, whoever makes them."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from node.trace import span

JOB = bytes(range(16))
PROGRAM = """
from node.cli.telemetry import export_spans
from node.trace import span
from opentelemetry import trace
assert export_spans("ab" * 32)
with span("Stage", bytes(range(16)), bytes(32)):
    pass
trace.get_tracer_provider().shutdown()
"""


def test_without_anybody_who_listens_it_does_nothing() -> None:
    with span("Stage", JOB):
        pass
    with pytest.raises(KeyError), span("Stage", JOB, bytes(32)):
        raise KeyError


def test_a_collector_hears_of_the_job_as_one_trace(tmp_path: Path) -> None:
    heard: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": place,
                       "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}  # fmt: skip
        subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=60)
        server.shutdown()
    assert [path for path, _ in heard] == ["/v1/traces"]
    sent = heard[0][1]
    assert JOB in sent  # the trace's id is the job's
    assert b"Stage" in sent
    assert b"gridsouk" in sent
