"""What a run has cost over its life: device-seconds, energy where the driver tells, dollars at a price."""

from __future__ import annotations

from dataclasses import dataclass

from trm_jax.configs.runs import Run
from trm_jax.errors import InputError
from trm_jax.planning.hardware import Device, of_kind
from trm_jax.storage.paths import json_lines
from trm_jax.train.clock import spent
from trm_jax.train.meter import COSTS_FILE

# pass@2 on ARC-AGI-1's 400 public evaluation tasks and dollars of training and answers, as the ARC transformer's author
# gives them (its own scores: one run each). Claims: nothing of it was run here.
PUBLISHED = {
    "ARC transformer, low": (0.315, 0.124),
    "ARC transformer, medium": (0.384, 0.253),
    "ARC transformer, high": (0.440, 0.671),
    "CompressARC": (0.215, 9.27),
    "HRM": (0.41, 133.0),
    "TRM": (0.44, 158.0),
}


@dataclass(frozen=True)
class Part:
    """A part of what a run has cost: `seconds` of each of `devices` of a kind."""

    what: str  # "train", or what was done with the run after
    seconds: float
    devices: int
    kind: str
    joules: float | None = None  # None where no driver told

    @property
    def device_s(self) -> float:
        return self.devices * self.seconds

    def dollars(self, device: Device | None = None, per_hour: float | None = None) -> float | None:
        """At the table's price of its own kind of device, or of another; per_hour: of one device instead."""
        found = device or of_kind(self.kind)
        if per_hour is None and found and found.dollars_per_hour is not None:
            per_hour = found.dollars_per_hour / found.chips
        return None if per_hour is None else per_hour * self.device_s / 3600


@dataclass(frozen=True)
class Cost:
    """What a run has cost."""

    parts: tuple[Part, ...]

    def device_s(self, training: bool | None = None) -> float:
        """Seconds of one device each: two devices for a second are two. training: of it alone, or of all else."""
        return sum(one.device_s for one in self.parts if training is None or (one.what == "train") == training)

    @property
    def devices(self) -> str:
        """'2 x NVIDIA H100', of each kind that trained; of all kinds where none did."""
        used = [one for one in self.parts if one.what == "train"] or self.parts
        return ", ".join(dict.fromkeys(f"{one.devices} x {one.kind}" for one in used))

    @property
    def joules(self) -> float | None:
        """None unless a driver told, all of the time."""
        told = [one.joules for one in self.parts]
        return None if None in told else sum(told)

    def dollars(self, device: Device | None = None, per_hour: float | None = None) -> float | None:
        """As those of a part; None where a part has no price."""
        prices = [one.dollars(device, per_hour) for one in self.parts]
        return None if None in prices else sum(prices)


def cost(run: Run) -> Cost:
    """Of a run so far. Raises InputError for one that has cost nothing yet, or whose files are damaged."""
    file, parts = run.path / COSTS_FILE, []
    for number, line in json_lines(file):
        try:
            what = str(line["what"]), float(line["seconds"]), int(line["devices"]), str(line["device_kind"])
        except (ValueError, TypeError, KeyError):
            raise InputError(f"{file}, line {number}: it does not say what was spent; remove the line") from None
        parts.append(Part(*what, line.get("joules")))
    counted = sum(one.seconds for one in parts if one.what == "train")
    # What the lines miss: a run of before there were any, and up to a minute before a kill.
    missed = spent(run.goodput["seconds"]) - counted if run.goodput else 0.0
    if missed > max(1.0, 0.01 * counted):
        parts.append(Part("train", missed, run.facts.get("devices", 1), run.facts.get("device_kind", "")))
    if not parts:
        raise InputError(f"{run.path} has cost nothing yet: it has not begun")
    return Cost(tuple(parts))


def score(run: Run) -> tuple[str, float] | None:
    """(name, value) of the last score: pass@2 where answers were voted on, else the headline of the task."""
    lines = [line for _, line in json_lines(run.path / "evals.jsonl")]
    for name in ("pass@2", run.headline):
        for record in reversed([*run.evaluations, *lines]):
            if name in record:
                return name, record[name]
    return None


def on_all_of_arc1(run: Run) -> bool:
    """Whether a run's scores are of all of ARC-AGI-1's public evaluation tasks, as the published ones are."""
    data = run.config.data
    part = any(data.get(name, 0) for name in ("most_tokens", "first_task", "most_tasks"))
    return data.get("test_set", "") == "evaluation" and not part
