"""Training: a trace's job whose batch size, and so its speed, changes while it runs.

Knows models, batch sizes and epochs; no queue, no cluster, no policy. The rules and their tables
are those of the Shockwave simulator (Zheng et al., NSDI 2023; scheduler/utils.py and
scheduler/scheduler.py of uw-mad-dash/shockwave, MIT), so that its published runs are replayed
and not approximated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum


class Mode(Enum):
    """How a job adapts its batch size: never, by gradient noise scale, or by critical regimes."""

    STATIC = "static"
    GNS = "gns"
    ACCORDION = "accordion"


Throughputs = Mapping[tuple[str, int, int], float]
"""(model, batch size, units) -> steps per second on the simulated GPU model."""

SAMPLES_PER_EPOCH: Mapping[str, int] = {
    "ResNet-18": 50_000,
    "ResNet-50": 100_000,
    "Transformer": 10_000,
    "LM": 59_675,
    "Recommendation": 117_907,
    "CycleGAN": 6_287,
    "A3C": 4,
}

_BATCH_MAX = {"ResNet-18": 256, "ResNet-50": 128, "LM": 80, "Recommendation": 8192}
_GNS_BATCH_MAX = {**_BATCH_MAX, "Transformer": 128}
_BATCH_MIN = {"ResNet-18": 16, "ResNet-50": 16, "Transformer": 16, "LM": 5, "Recommendation": 512}

# (model, first batch size, units) -> the epochs at which the batch size doubles.
_GNS_DOUBLINGS: Mapping[tuple[str, int, int], tuple[int, ...]] = {
    ("ResNet-18", 16, 1): (31, 41, 51, 71),
    ("ResNet-18", 32, 1): (21, 31, 51),
    ("ResNet-18", 64, 1): (11, 31),
    ("ResNet-18", 128, 1): (11,),
    ("ResNet-18", 16, 2): (21, 31, 91, 111),
    ("ResNet-18", 32, 2): (11, 21, 41),
    ("ResNet-18", 64, 2): (21, 41),
    ("ResNet-18", 128, 2): (41,),
    ("ResNet-18", 16, 4): (11, 21, 81, 91),
    ("ResNet-18", 32, 4): (21, 31, 61),
    ("ResNet-18", 64, 4): (11, 61),
    ("ResNet-18", 128, 4): (11,),
    ("ResNet-50", 64, 1): (101,),
    ("ResNet-50", 32, 2): (101, 111),
    ("ResNet-50", 64, 2): (81,),
    ("ResNet-50", 32, 4): (131, 221),
    ("ResNet-50", 64, 4): (191,),
    ("LM", 5, 1): (31, 41, 61, 71),
    ("LM", 10, 1): (11, 21, 41),
    ("LM", 20, 1): (11, 41),
    ("LM", 40, 1): (11,),
    ("LM", 5, 2): (31, 51, 61, 71),
    ("LM", 10, 2): (11, 31, 41),
    ("LM", 20, 2): (31, 41),
    ("LM", 40, 2): (11,),
    ("LM", 5, 4): (11, 31, 71, 91),
    ("LM", 10, 4): (11, 31, 61),
    ("LM", 20, 4): (11, 61),
    ("LM", 40, 4): (61,),
    ("Recommendation", 512, 1): (21, 41, 71, 91),
    ("Recommendation", 1024, 1): (21, 51, 91),
    ("Recommendation", 2048, 1): (21, 41),
    ("Recommendation", 4096, 1): (41,),
}


@dataclass(frozen=True, slots=True)
class Training:
    """What a job trains and how far it is: `steps_run` of `steps` at the present batch size."""

    model: str
    batch: int
    first_batch: int
    units: int
    mode: Mode
    steps: int
    steps_run: int = 0

    @property
    def epochs(self) -> int:
        """Epochs of the whole job."""
        return math.ceil(self.steps / steps_per_epoch(self.model, self.batch))

    @property
    def epoch(self) -> int:
        """Epochs begun so far."""
        return math.ceil(self.steps_run / steps_per_epoch(self.model, self.batch))

    @property
    def steps_left(self) -> int:
        """Steps still to run at the present batch size."""
        return self.steps - self.steps_run


def steps_per_epoch(model: str, batch: int) -> int:
    """Steps that see every sample of the model's data set once."""
    return math.ceil(SAMPLES_PER_EPOCH[model] / batch)


def profile_s(training: Training, throughputs: Throughputs) -> tuple[float, ...]:
    """Seconds of each epoch of the job run alone, from its first to its last.

    It is the profile that the published finish-time fairness divides by. An Accordion job is
    profiled as keeping its first batch size for 30 % of its epochs; the replay in `wanted_batch`
    leaves it earlier, as the published simulator does.
    """
    return tuple(
        SAMPLES_PER_EPOCH[training.model]
        / batch
        / throughputs[training.model, batch, training.units]
        for batch in profile_batches(training)
    )


def profile_batches(training: Training) -> tuple[int, ...]:
    """The batch size of each epoch, as the published profiler lays them out."""
    count = math.ceil(training.steps / steps_per_epoch(training.model, training.first_batch))
    match training.mode:
        case Mode.STATIC:
            return (training.first_batch,) * count
        case Mode.GNS:
            return tuple(_gns_batch(training, epoch, count) for epoch in range(count))
        case Mode.ACCORDION:
            return _accordion_batches(training, count)


def wanted_batch(training: Training) -> int:
    """The batch size the job asks for at this point of its run."""
    model, batch, epoch = training.model, training.batch, training.epoch
    match training.mode:
        case Mode.STATIC:
            return batch
        case Mode.GNS:
            count = max(760, epoch + 2)
            due = max(_gns_batch(training, later, count) for later in (epoch, epoch + 1))
            return batch * 2 if due > batch and batch != _GNS_BATCH_MAX.get(model) else batch
        case Mode.ACCORDION:
            return _accordion_batch(training)


def rescaled(training: Training, batch: int, throughputs: Throughputs) -> Training:
    """The job at another batch size, with its epochs and its finished epochs preserved.

    Unchanged where the new size was never profiled, or the job began at its model's largest.
    """
    model = training.model
    if batch == training.batch or training.first_batch == _BATCH_MAX.get(model):
        return training
    if (model, batch, training.units) not in throughputs:
        return training
    steps = math.ceil(training.steps * (1 / (batch / training.batch)))
    if math.ceil(steps / steps_per_epoch(model, batch)) != training.epochs:
        steps = steps_per_epoch(model, batch) * training.epochs
    return replace(
        training,
        batch=batch,
        steps=steps,
        steps_run=training.epoch * steps_per_epoch(model, batch),
    )


def _gns_batch(training: Training, epoch: int, count: int) -> int:
    key = (training.model, training.first_batch, training.units)
    doublings = _GNS_DOUBLINGS.get(key, ())
    if not doublings or count <= doublings[0]:
        return training.first_batch
    passed = sum(1 for begin in doublings if epoch >= begin)
    if passed > 1 and epoch + 1 >= count:
        passed = 0  # the published table stops one epoch short of the end
    return min(training.first_batch << passed, _GNS_BATCH_MAX[training.model])


def _accordion_batches(training: Training, count: int) -> tuple[int, ...]:
    model, first = training.model, training.first_batch
    if model not in _BATCH_MAX:
        return (first,) * count

    def critical(epoch: int) -> bool:
        if model == "Recommendation":
            return epoch < _head(model, first) or 60 <= epoch < 70 or 80 <= epoch < 90
        return _critical(model, first, epoch)

    return tuple(
        first if critical(epoch) or epoch <= count * 0.3 else _BATCH_MAX[model]
        for epoch in range(count)
    )


def _accordion_batch(training: Training) -> int:
    model, batch, first = training.model, training.batch, training.first_batch
    if model not in _BATCH_MAX:
        return batch
    critical = _critical(model, first, training.epoch)
    if batch == first and not critical and batch != _BATCH_MAX[model]:
        return _BATCH_MAX[model]
    if batch != first and critical and batch != _BATCH_MIN[model]:
        return first
    return batch


def _critical(model: str, first: int, epoch: int) -> bool:
    match model:
        case "ResNet-50":
            return epoch % 30 < 10
        case "ResNet-18":
            return epoch < _head(model, first) or 150 <= epoch < 160 or 250 <= epoch < 260
        case _:
            return epoch < _head(model, first)


def _head(model: str, first: int) -> int:
    """How many epochs the first critical regime lasts."""
    if model == "Recommendation":
        return {512: 30, 1024: 30, 2048: 40}.get(first, 10)
    return 20 if (model, first) == ("ResNet-18", 256) else 10
