"""What a run leaves in its folder while it trains, besides checkpoints: records, facts, and where its time went."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable

import jax
import numpy as np

from trm_jax.distributed.process_group import ProcessGroup
from trm_jax.errors import InputError
from trm_jax.evals.runner import finish
from trm_jax.storage.output import open_output
from trm_jax.storage.paths import AnyPath, write_whole
from trm_jax.train import clock
from trm_jax.train.config import RunConfig
from trm_jax.train.meter import Meter
from trm_jax.train.writers import METRICS_FILE, RUN_FILE, Writers, open_writers, read_jsonl

_AT_A_TIME = 64  # sums of steps that are fetched together


class Diverged(RuntimeError):
    """The loss or a gradient stopped being finite."""

    def __init__(self, step: int, kept: str = ""):
        """kept: the folder that holds a good checkpoint, if there is one."""
        kept = f"the last good checkpoint in {kept} is kept; " if kept else ""
        super().__init__(
            f"the loss or a gradient is not finite at step {step}; {kept}lower optim.lr or raise the precision "
            "(model.dtype)"
        )
        self.step = step


def peak_memory_bytes() -> int:
    """The most memory in use so far: of the first accelerator, or of this process on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, kilobytes elsewhere


class Interval:
    """The steps between two log lines: their sums, on the device until they are fetched."""

    def __init__(self, begun: dict | None = None):
        """begun: what `to_json` gave when the run was saved within one."""
        begun = begun or {"updates": 0, "totals": {}}
        self.updates = begun["updates"]
        self._totals = {name: np.float64(value) for name, value in begun["totals"].items()}
        self._on_device: list[tuple[int, dict]] = []

    def add(self, step: int, sums: dict) -> None:
        self._on_device.append((step, sums))
        if len(self._on_device) >= 2 * _AT_A_TIME:  # the first of them were done long ago
            self._fetch(self._on_device[:_AT_A_TIME])
            del self._on_device[:_AT_A_TIME]

    def ready(self) -> bool:
        """Whether all its steps are done."""
        return not self._on_device or self._on_device[-1][1]["loss"].is_ready()

    def fetched(self) -> dict[str, np.ndarray]:
        """Sums over the steps, float64. Raises Diverged for the first step whose loss or gradient was not finite."""
        self._fetch(self._on_device)
        self._on_device = []
        return self._totals

    def _fetch(self, steps: list[tuple[int, dict]]) -> None:
        for (step, _), sums in zip(steps, jax.device_get([sums for _, sums in steps]), strict=True):
            if sums["bad"]:
                raise Diverged(step)
            self.updates += 1
            for name, value in sums.items():
                self._totals[name] = self._totals.get(name, 0.0) + np.float64(value)

    def to_json(self) -> dict:
        totals = {name: value.tolist() for name, value in self.fetched().items()}
        return {"updates": self.updates, "totals": totals}


def training_record(cfg: RunConfig, step: int, interval: Interval) -> dict:
    """One line of the training log: means over the steps since the line before.

    Losses are per sequence of the global batch; scores are over the rows that ended (absent when none did).
    """
    sums, updates = interval.fetched(), interval.updates
    record = {
        "kind": "train",
        "step": step,
        "examples": step * cfg.train.batch_size,
        "loss": float(sums["loss"] / updates),
        "grad_norm": float(sums["grad_norm"] / max(updates - float(sums["skipped"]), 1)),
        "lr": float(sums["lr"] / updates),
        "halted": float(sums["count"]),
    }
    if cfg.scales_loss:
        record |= {"loss_scale": float(sums["loss_scale"] / updates), "skipped": int(sums["skipped"])}
    return record | finish(cfg, sums, updates * cfg.train.batch_size)


class Recorder:
    """The records of one run; process 0 writes them."""

    def __init__(self, cfg: RunConfig, workdir: AnyPath, clock_: clock.Clock, group: ProcessGroup, say):
        """say: takes lines that a person should see."""
        self._cfg, self._workdir, self._clock, self._group = cfg, workdir, clock_, group
        self._say: Callable[[str], None] = say
        self.evaluated: dict[int, dict] = {}
        self._writers, self._goodput, self._counts, self._meter = Writers(), None, False, None

    def begin(self, step: int, meta: dict, facts: dict) -> None:
        """Go on at `step` from a checkpoint with `meta` ({} for a new run); `facts` are kept in run.json."""
        self._began = time.monotonic() - meta.get("elapsed_s", 0.0)
        self._interval, self._closed = Interval(meta.get("interval")), None
        self._last_step, self._last_trained_s = step, self._clock.training_s()
        if self._group.first:
            try:
                before = clock.read_goodput(self._workdir / clock.GOODPUT_FILE)
            except InputError as error:
                self._say(f"note: {error}; the run's time is counted anew, from its checkpoint on")
                before = {}
            self._lives = before.get("lives", 0) + 1
            began_unix_s = time.time() - sum(self._clock.seconds().values())
            self._earlier_s = clock.resumed(meta.get("seconds", {}), before, step, began_unix_s)
            write_whole(self._workdir / RUN_FILE, json.dumps(facts, indent=2).encode() + b"\n")
            self._writers = open_writers(self._workdir, step, self._cfg, self._say)

        def evaluations():
            records = read_jsonl(self._workdir / METRICS_FILE)
            return [r for r in records if r["kind"] == "eval" and r["step"] <= step]

        self.evaluated = {record["step"]: record for record in self._group.share(evaluations)}
        # A run that was done before does not go on.
        self._counts = self._group.first and not (step == facts["total_steps"] and step in self.evaluated)
        self._meter = Meter(self._workdir, "train", self._say, facts["devices"]) if self._counts else None
        self.write_goodput()

    def take(self, step: int, sums: dict) -> None:
        """Take note of the sums of a step, which stay on the device."""
        self._interval.add(step, sums)

    def log(self, step: int) -> dict | None:
        """Close the interval at `step`, and write the record of the one before, which costs no waiting.

        Returns that record. Raises Diverged.
        """
        record = self._write_closed()
        self._closed = (step, self._clock.training_s(), self._interval)
        self._interval = Interval()
        return record

    def _write_closed(self) -> dict | None:
        if self._closed is None:
            return None
        step, trained_s, interval = self._closed
        waiting, self._closed = not interval.ready(), None
        record = training_record(self._cfg, step, interval)
        if waiting:  # the step has ended now; otherwise about when it was asked for
            trained_s = self._clock.training_s()
        rate = (step - self._last_step) / max(trained_s - self._last_trained_s, 1e-9)
        self._last_step, self._last_trained_s = step, trained_s
        speed = {"steps_per_s": rate, "examples_per_s": rate * self._cfg.train.batch_size}
        record["clock"] = self._now() | speed
        self._writers.write(record)
        self.keep_count()
        return record

    def settle(self) -> dict | None:
        """Wait for all steps so far; the record that was still to be written. Raises Diverged."""
        record = self._write_closed()
        self._interval.fetched()
        return record

    def log_evaluation(self, step: int, scores: dict, eval_set: str) -> dict:
        record = {"kind": "eval", "step": step, **scores, "eval_set": eval_set, "clock": self._now()}
        self.evaluated[step] = record
        self._writers.write(record)
        return record

    def meta(self) -> dict:
        """What a checkpoint must hold besides the state, for the records to go on exactly; after `settle`."""
        meta = {"elapsed_s": time.monotonic() - self._began, "interval": self._interval.to_json()}
        return meta | ({"seconds": self.seconds()} if self._group.first else {})

    def sync(self) -> None:
        """Make what was written survive a crash."""
        self._writers.sync()

    def _now(self) -> dict:
        return {"elapsed_s": time.monotonic() - self._began, "peak_memory_bytes": peak_memory_bytes()}

    # Where the time went.

    def seconds(self) -> dict[str, float]:
        """Seconds since the run first started, by kind (`clock.SPENT`, lost, down); at process 0."""
        now = self._clock.seconds()
        return {kind: earlier + now.get(kind, 0.0) for kind, earlier in self._earlier_s.items()}

    def _count(self, stopped_at: int | None = None) -> bytes:
        return clock.to_json(self.seconds(), self._lives, time.time(), stopped_at).encode()

    def write_goodput(self, stopped_at: int | None = None) -> None:
        """Bring GOODPUT_FILE up to now. stopped_at: the step, when the run ends in order."""
        if self._counts and self._goodput is None:
            self._goodput = open_output(self._workdir, clock.GOODPUT_FILE, self._count(stopped_at), self._say)
        elif self._counts:
            self._goodput.replace(self._count(stopped_at))
            self._goodput.sync()

    def keep_count(self) -> None:
        """The same as often as costs nothing: what is lost to a crash is known only up to there."""
        if self._counts:
            self._goodput.replace(self._count())
        if self._meter:
            self._meter.tick()

    def close(self) -> None:
        try:
            self._writers.close()
        finally:
            if self._meter:
                self._meter.close()
            if self._goodput:
                self._goodput.close()
