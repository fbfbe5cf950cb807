"""What a run has cost over its life: device-seconds, energy where the driver tells, dollars at a price."""

from __future__ import annotations

import json
from dataclasses import dataclass

from trm_jax.configs.runs import Run
from trm_jax.errors import InputError
from trm_jax.planning.hardware import Device, of_kind
from trm_jax.storage.paths import AnyPath
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
class Cost:
    """What a run has cost. Seconds are those of one device each: two devices for a second are two."""

    train_s: float
    answers_s: float  # evaluations and answers after the training
    joules: float | None  # None where no driver told, or not of all the time
    devices: int
    device_kind: str

    @property
    def seconds(self) -> float:
        return self.train_s + self.answers_s

    def dollars(self, device: Device | None = None, per_hour: float | None = None) -> float | None:
        """At the table's price of the run's own kind of device, or of another; per_hour: of one device instead."""
        found = device or of_kind(self.device_kind)
        if per_hour is None and found and found.dollars_per_hour is not None:
            per_hour = found.dollars_per_hour / found.chips
        return None if per_hour is None else per_hour * self.seconds / 3600


def cost(run: Run) -> Cost:
    """Of a run so far. Raises InputError for one that has not begun, or whose files are damaged."""
    if not run.goodput:
        raise InputError(f"{run.path} has no goodput.json: it has not begun, and so has cost nothing")
    lines = _lines(run.path / COSTS_FILE)
    devices = run.facts.get("devices", 1)
    used = [line for line in lines if line["what"] != "train"]
    counted = [line.get("joules") for line in lines]
    told = any(line["what"] == "train" for line in lines) and None not in counted
    return Cost(
        train_s=devices * spent(run.goodput["seconds"]),
        answers_s=sum(line["devices"] * line["seconds"] for line in used),
        joules=sum(counted) if told else None,
        devices=devices,
        device_kind=run.facts.get("device_kind", ""),
    )


def _lines(file: AnyPath) -> list[dict]:
    """The lines of a COSTS_FILE; those that a kill has cut are left out."""
    found = []
    for number, text in enumerate(file.read_text().splitlines() if file.exists() else [], 1):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        try:
            float(line["seconds"]), int(line["devices"]), str(line["what"])
        except (ValueError, TypeError, KeyError):
            raise InputError(f"{file}, line {number}: it does not say what was spent; remove the line") from None
        found.append(line)
    return found


def score(run: Run) -> tuple[str, float] | None:
    """(name, value) of the last score: pass@2 where answers were voted on, else the headline of the task."""
    file = run.path / "evals.jsonl"
    lines = [json.loads(text) for text in file.read_text().splitlines()] if file.exists() else []
    for name in ("pass@2", run.headline):
        for record in reversed([*run.evaluations, *lines]):
            if name in record:
                return name, record[name]
    return None
