"""Readers: the text of public traces as jobs. Strict: a line that is not understood is an error.

Knows formats, not files: whoever calls opens, unpacks and bounds. Formats: Alibaba's openb lists
(FGD, ATC 2023), Philly (ATC 2019), Gavel (OSDI 2020) and Shockwave (NSDI 2023).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from market.errors import SpecError
from market.fleet import MILLI, UNITS_PER_MACHINE_MAX, Machine, Shape
from market.simulate.jobs import JOBS_MAX, Job, Trace
from market.simulate.rounds import RoundJob, round_job
from market.simulate.training import Mode, Throughputs, Training

_JOB_TYPE = re.compile(r"(\S+)(?: \(batch size (\d+)\))?")
_THROUGHPUT_KEY = re.compile(r"\('(\S+?)(?: \(batch size (\d+)\))?', (\d+)\)")
_SHOCKWAVE_COLUMNS = 12
_GAVEL_COLUMNS = (7, 10)
EPOCHS_MAX = 2_000_000  # of one job: the profile has a number for each
UNITS_MAX = 65_536  # of one job: more GPUs than any cluster has
STEPS_MAX = 10**12
SECONDS_MAX = 3.2e10  # a thousand years, and no digit of a millisecond lost


def kind_of(text: str) -> str:
    """Which format a trace is in: `openb`, `philly`, `gavel` or `shockwave`. Raises SpecError."""
    first = text.partition("\n")[0].removeprefix("\ufeff").strip("\r")
    columns = first.count("\t") + 1
    names = set(first.split(","))
    if not text.strip():
        raise SpecError("the trace is empty", hint="give a file with at least one job")
    if {"name", "cpu_milli"} <= names:
        return "openb"
    if {"timestamp", "duration"} <= names:
        return "philly"
    if columns == _SHOCKWAVE_COLUMNS:
        return "shockwave"
    if columns in _GAVEL_COLUMNS:
        return "gavel"
    raise SpecError(
        "this is no trace format I know",
        hint="openb pod list, philly csv, gavel or shockwave .trace; plain or gzipped",
    )


def read_throughputs(text: str, model: str = "v100") -> dict[tuple[str, int, int], float]:
    """Gavel's throughput table for one GPU model, jobs alone. Raises SpecError."""
    try:
        table = json.loads(text)[model]
        rates = {key: float(value["null"]) for key, value in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise SpecError(f"not a throughput table with a {model}: {problem}") from problem
    found: dict[tuple[str, int, int], float] = {}
    for key, rate in rates.items():
        match = _THROUGHPUT_KEY.fullmatch(key)
        if match is None:
            raise SpecError(f"{key!r} is not a (job type, scale factor)")
        if not 0 <= rate < 1e9:
            raise SpecError(f"{key!r} runs {rate} steps/s in the throughput table")
        if rate > 0:
            found[match[1], int(match[2] or 1), int(match[3])] = rate
    return found


def read_shockwave(text: str, throughputs: Throughputs) -> Trace:
    """Twelve tab-separated columns; the batch-size mode of each job is kept and replayed."""
    rounds: list[RoundJob] = []
    for number, cells in _rows(text, (_SHOCKWAVE_COLUMNS,)):
        try:
            training = _training(cells[0], cells[6], Mode(cells[7]), cells[5])
            arrival_s = _seconds(cells[11])
            rounds.append(round_job(number, f"job-{number}", arrival_s, training, throughputs))
        except (ValueError, KeyError) as problem:
            raise _wrong("trace", number + 1, problem) from problem
    jobs = tuple(
        Job(one.job_id, one.requester, one.arrival_s, one.units, one.isolated_s, one.isolated_s)
        for one in rounds
    )
    return Trace("shockwave", jobs, tuple(rounds), throughputs)


def read_gavel(text: str, throughputs: Throughputs) -> Trace:
    """Seven columns (or ten, with mode and limits): steps become seconds by the table.

    A size that was never profiled (one trace job in seven of Gavel's own) is taken to run as many
    times faster than one unit as it has units.
    """
    rates = dict(throughputs)
    jobs: list[Job] = []
    rounds: list[RoundJob] = []
    for number, cells in _rows(text, _GAVEL_COLUMNS):
        wide = len(cells) == _GAVEL_COLUMNS[1]
        steps, units = (cells[5], cells[6]) if wide else (cells[4], cells[6])
        arrival = cells[9] if wide else cells[5]
        try:
            training = _training(cells[0], units, Mode.STATIC, steps)
            arrival_s = _seconds(arrival)
            key = (training.model, training.batch, training.units)
            rates.setdefault(key, rates[(*key[:2], 1)] * training.units)
            duration = training.steps / rates[key]
            jobs.append(Job(number, "", arrival_s, training.units, duration, duration))
            rounds.append(round_job(number, f"job-{number}", arrival_s, training, rates))
        except (ValueError, KeyError) as problem:
            raise _wrong("trace", number + 1, problem) from problem
    return Trace("gavel", tuple(jobs), tuple(rounds), rates)


def read_philly(text: str) -> Trace:
    """timestamp, duration, num_gpus, gpu_time, cluster: the virtual cluster is the requester."""
    found: list[tuple[float, float, int, str]] = []
    for number, row in _records(text, {"timestamp", "duration", "num_gpus", "cluster"}):
        try:
            at = datetime.strptime(row["timestamp"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
            duration = _seconds(row["duration"])
            units = _whole(row["num_gpus"], 0, UNITS_MAX)
        except ValueError as problem:
            raise _wrong("trace", number, problem) from problem
        if duration > 0 and units > 0:
            found.append((at.timestamp(), duration, units, row["cluster"]))
    found.sort()
    first = found[0][0] if found else 0.0
    return Trace(
        "philly",
        tuple(
            Job(number, cluster, at - first, units, duration, duration)
            for number, (at, duration, units, cluster) in enumerate(found)
        ),
    )


def read_openb(text: str, nodes: str = "") -> Trace:
    """A pod list, and the node list where given. Pods are sorted by name, as the paper does.

    As jobs only pods with a GPU and a lifetime count, in whole units; `shapes` has every pod.
    """
    shapes: list[Shape] = []
    jobs: list[Job] = []
    records = sorted(
        _records(text, {"name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"}),
        key=lambda item: item[1]["name"],
    )
    for number, row in records:
        try:
            units = _whole(row["num_gpu"], 0, UNITS_MAX)
            models = tuple(sorted(set(filter(None, (row.get("gpu_spec") or "").split("|")))))
            shape = Shape(
                _whole(row["cpu_milli"], 0, STEPS_MAX),
                _whole(row["memory_mib"], 0, STEPS_MAX),
                units,
                _whole(row["gpu_milli"], 1, MILLI) if units else 0,
                models,
            )
            begin = _seconds(row.get("creation_time") or "0")
            end = _seconds(row.get("deletion_time") or "0")
        except ValueError as problem:
            raise _wrong("trace", number, problem) from problem
        shapes.append(shape)
        if units and end > begin:
            jobs.append(Job(number, "", begin, units, end - begin, end - begin))
    jobs.sort(key=lambda job: (job.arrival_s, job.job_id))
    machines = read_openb_nodes(nodes) if nodes else ()
    return Trace("openb", tuple(jobs), shapes=tuple(shapes), machines=machines)


def read_openb_nodes(text: str) -> tuple[Machine, ...]:
    """The machines with a GPU, sorted by name."""
    machines = []
    for number, row in _records(text, {"sn", "cpu_milli", "memory_mib", "gpu", "model"}):
        try:
            machine = Machine(
                row["sn"],
                _whole(row["cpu_milli"], 0, STEPS_MAX),
                _whole(row["memory_mib"], 0, STEPS_MAX),
                _whole(row["gpu"], 0, UNITS_PER_MACHINE_MAX),
                row["model"],
            )
        except ValueError as problem:
            raise _wrong("list of nodes", number, problem) from problem
        if machine.units:
            machines.append(machine)
    return tuple(sorted(machines, key=lambda machine: machine.name))


def _training(job_type: str, units: str, mode: Mode, steps: str) -> Training:
    """The job of a line. Raises ValueError, and KeyError for a model that was never profiled."""
    model, batch = _job_type(job_type)
    many, long = _whole(units, 1, UNITS_MAX), _whole(steps, 1, STEPS_MAX)
    found = Training(model, batch, batch, many, mode, long)
    if found.epochs > EPOCHS_MAX:
        raise ValueError(f"{long} steps are {found.epochs} epochs, at most {EPOCHS_MAX}")
    return found


def _job_type(text: str) -> tuple[str, int]:
    match = _JOB_TYPE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a job type")
    return match[1], _whole(match[2] or "1", 1, STEPS_MAX)


def _seconds(text: str) -> float:
    """A time in seconds, from 0 to a thousand years: no NaN, no infinity, nothing negative."""
    value = float(text)
    if not 0 <= value <= SECONDS_MAX:
        raise ValueError(f"{text!r} is not a number of seconds")
    return value


def _whole(text: str, low: int, high: int) -> int:
    if not text.strip().isdecimal() or not low <= int(text[:32]) <= high:
        raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
    return int(text)


def _wrong(what: str, number: int, problem: Exception) -> SpecError:
    said = str(problem)
    if isinstance(problem, KeyError):
        said = f"no throughput is known of {problem.args[0]}"
    return SpecError(
        f"line {number} of the {what}: {said}", hint="correct or remove that line of the file"
    )


def _rows(text: str, columns: tuple[int, ...]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.splitlines()):
        if number >= JOBS_MAX:
            raise SpecError(f"the trace has more than {JOBS_MAX} jobs")
        cells = line.split("\t")
        if len(cells) not in columns:
            raise SpecError(
                f"line {number + 1} of the trace has {len(cells)} columns, not "
                f"{' or '.join(map(str, columns))}",
                hint="columns are separated by tabs",
            )
        yield number, cells


def _records(text: str, wanted: set[str]) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(text))
    try:
        missing = wanted - set(reader.fieldnames or ())
        if missing:
            raise SpecError(
                f"the file lacks the columns {', '.join(sorted(missing))}",
                hint="the first line names the columns, separated by commas",
            )
        for number, row in enumerate(reader, start=2):
            if number > JOBS_MAX:
                raise SpecError(f"the trace has more than {JOBS_MAX} jobs")
            if None in row or any(row[name] is None for name in wanted):
                raise SpecError(f"line {number} of the file has too few or too many columns")
            yield number, row
    except csv.Error as problem:
        raise SpecError(f"the file is no csv: {problem}") from problem
