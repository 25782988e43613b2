"""Traces: files of `souk simulate`, opened, unpacked, bounded and read. No decisions.

What the lines mean is in `market/simulate/readers` and `market/simulate/churn`.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from market.errors import NotFoundError, SpecError
from market.simulate import readers
from market.simulate.churn import Supply, read_churn
from market.simulate.jobs import Trace

TRACE_BYTES_MAX = 256 * 1024 * 1024


def read_text(path: Path) -> str:
    """A trace file, unpacked if gzipped, at most TRACE_BYTES_MAX.

    Raises NotFoundError and SpecError.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as stream:
            data = stream.read(TRACE_BYTES_MAX + 1)
    except FileNotFoundError as problem:
        raise NotFoundError(
            f"there is no file {path}", hint="give the path of a trace"
        ) from problem
    except IsADirectoryError as problem:
        raise SpecError(
            f"{path} is a directory", hint="give the path of one trace in it"
        ) from problem
    except (OSError, EOFError, zlib.error) as problem:
        raise SpecError(
            f"{path} cannot be read: {problem}", hint="fetch the file again; it may be cut short"
        ) from problem
    if len(data) > TRACE_BYTES_MAX:
        raise SpecError(
            f"{path} is larger than {TRACE_BYTES_MAX // 1024**2} MiB unpacked",
            hint="cut it: a trace of a million jobs is smaller",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise SpecError(
            f"{path} is not text", hint="traces are csv or tab-separated, plain or gzipped"
        ) from problem


def load_trace(path: Path, throughputs: Path | None = None, nodes: Path | None = None) -> Trace:
    """The trace in a file, with the table or the node list beside it where it needs one.

    Raises NotFoundError and SpecError.
    """
    text = read_text(path)
    match readers.kind_of(text):
        case "openb":
            beside = nodes or _beside(path, "*node_list*.csv*")
            return readers.read_openb(text, read_text(beside) if beside else "")
        case "philly":
            return readers.read_philly(text)
        case kind:
            table = (
                throughputs
                or _beside(path, "*simulation_throughputs.json*")
                or _beside(path, "*throughputs.json*")
            )
            if table is None:
                raise SpecError(
                    "this trace counts steps, and no table says how fast they are",
                    hint="give --throughputs FILE",
                )
            rates = readers.read_throughputs(read_text(table))
            read = readers.read_shockwave if kind == "shockwave" else readers.read_gavel
            return read(text, rates)


def load_churn(path: Path) -> Supply:
    """A log of units that come and go. Raises NotFoundError and SpecError."""
    return read_churn(read_text(path))


def _beside(trace: Path, pattern: str) -> Path | None:
    return next(iter(sorted(trace.resolve().parent.glob(pattern))), None)
