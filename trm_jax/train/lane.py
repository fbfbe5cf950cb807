"""One run's folder while it trains: its records, its checkpoints, its clock."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax

from trm_jax.distributed.process_group import Elsewhere, ProcessGroup
from trm_jax.errors import OutOfReach
from trm_jax.storage.beside import Beside, reason
from trm_jax.storage.bucket import problem as storage_problem
from trm_jax.storage.owner import require_owner
from trm_jax.storage.paths import BucketPath, write_whole
from trm_jax.train import clock
from trm_jax.train.checkpoint import Checkpoints
from trm_jax.train.config import RunConfig
from trm_jax.train.step import log_record
from trm_jax.train.tensorboard import tensorboard_writer
from trm_jax.train.writers import (
    CHECKPOINTS,
    METRICS_FILE,
    RUN_FILE,
    BucketJsonlWriter,
    WandbWriter,
    Writers,
    jsonl_writer,
    read_jsonl,
)


@dataclass(frozen=True)
class Job:
    """A run to be trained: its settings, frozen and as the nested dict that writers keep, and its folder."""

    cfg: RunConfig
    config: dict
    workdir: Path


def peak_memory_bytes() -> int:
    """The most memory in use so far: of the first accelerator, or of this process on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, kilobytes elsewhere


class Lane:
    """A run among those that train side by side (often the only one)."""

    def __init__(self, job: Job, say: Callable[[str], None], group: ProcessGroup):
        self.cfg, self.workdir, self._job, self._say, self._group = job.cfg, job.workdir, job, say, group
        self.checkpoints = Checkpoints(job.workdir / CHECKPOINTS, job.cfg.checkpoint, say=say, group=group)
        self.evaluated: dict[int, dict] = {}
        self.diverged = ""  # why it is trained no more
        self._writers, self._beside = Writers([]), Beside(say)

    def begin(self, step: int, meta: dict, facts: dict, own_clock: clock.Clock) -> None:
        """Go on at `step` from a checkpoint with `meta`; `facts` are kept in run.json."""
        self._began = time.monotonic() - meta["elapsed_s"]
        self._clock_of_process = own_clock
        self._last_step, self._last_trained_s = step, own_clock.training_s()
        if self._group.first:
            self._go_on_counting(step, meta.get("seconds", {}))
            write_whole(self.workdir / RUN_FILE, json.dumps(facts, indent=2).encode() + b"\n")
            self._writers = self._open_writers(step)

        def evaluations():
            records = read_jsonl(self.workdir / METRICS_FILE)
            return [r for r in records if r["kind"] == "eval" and r["step"] <= step]

        self.evaluated = {record["step"]: record for record in self._group.share(evaluations)}
        # A run that was done before is not living again.
        self._counts = self._group.first and not (step == facts["total_steps"] and step in self.evaluated)
        self.write_goodput()

    def _go_on_counting(self, step: int, saved: dict) -> None:
        try:
            before = clock.read_goodput(self.workdir / clock.GOODPUT_FILE)
        except clock.NoCount as error:
            self._say(f"note: {error}; the run's time is counted anew, from its checkpoint on")
            before = {}
        self._lives = before.get("lives", 0) + 1
        own_s = sum(self._clock_of_process.seconds().values())
        self._earlier_s = clock.resumed(saved, before, step, time.time() - own_s)

    def seconds(self) -> dict[str, float]:
        """Seconds of all lives by kind (`clock.SPENT`, lost, down); at process 0."""
        now = self._clock_of_process.seconds()
        return {kind: earlier + now.get(kind, 0.0) for kind, earlier in self._earlier_s.items()}

    def _count(self, stopped_at: int | None = None) -> str:
        """What GOODPUT_FILE should hold now."""
        self._counted_at = time.monotonic()
        return clock.to_json(self.seconds(), self._lives, time.time(), stopped_at)

    def write_goodput(self, stopped_at: int | None = None) -> None:
        """Bring GOODPUT_FILE up to now. stopped_at: the step, when the run ends in order."""
        if self._counts:
            self._beside.wait()  # what is sent there is older
            write_whole(self.workdir / clock.GOODPUT_FILE, self._count(stopped_at).encode())

    def _keep_count(self, at_once: bool = False) -> None:
        """The same as often as costs nothing: what is lost to a crash is known only up to there."""
        if not isinstance(self.workdir, BucketPath):
            self.write_goodput()
        elif self._counts and (at_once or time.monotonic() - self._counted_at >= BucketJsonlWriter.EVERY_S):
            self._beside.start(partial(self._send_goodput, self._count()))

    def _send_goodput(self, content: str) -> None:
        require_owner(self.workdir)
        write_whole(self.workdir / clock.GOODPUT_FILE, content.encode())

    def _open_writers(self, resume_step: int) -> Writers:
        log, writers = self.cfg.log, [jsonl_writer(self.workdir / METRICS_FILE, resume_step, self._say)]
        if log.tensorboard:
            writers.append(tensorboard_writer(self.workdir / "tensorboard", resume_step, self._say))
        if log.wandb_project:
            writers.append(WandbWriter(self.workdir, log.wandb_project, self.cfg.name, self._job.config))
        return Writers(writers)

    def _clock(self) -> dict:
        return {"elapsed_s": time.monotonic() - self._began, "peak_memory_bytes": peak_memory_bytes()}

    def give_up(self, bad_step: int) -> None:
        """From now on nothing is written or saved: the run diverged at `bad_step`."""
        there_is_one = bool(self.checkpoints.steps())
        kept = f"the last good checkpoint in {self.workdir / CHECKPOINTS} is kept; " if there_is_one else ""
        self.diverged = (
            f"the loss or a gradient is not finite at step {bad_step}; {kept}lower optim.lr or raise the precision "
            "(model.dtype)"
        )

    def log_training(self, step: int, sums: dict, trained_s: float) -> dict:
        """Write the record of the sums since the one before; trained_s: `Clock.training_s` when `step` was made."""
        rate = (step - self._last_step) / max(trained_s - self._last_trained_s, 1e-9)
        self._last_step, self._last_trained_s = step, trained_s
        record = log_record(step, sums, self.cfg)
        speed = {"steps_per_s": rate, "examples_per_s": rate * self.cfg.train.batch_size}
        record["clock"] = self._clock() | speed
        self._writers.write(record)
        self._keep_count()
        return record

    def log_evaluation(self, step: int, scores: dict, eval_set: str) -> dict:
        record = {"kind": "eval", "step": step, **scores, "eval_set": eval_set, "clock": self._clock()}
        self.evaluated[step] = record
        self._writers.write(record)
        return record

    def save(self, step: int, state, *, must: bool) -> None:
        """Start a checkpoint. A storage that does not answer is told of, and training goes on: to end it would lose
        more. When the run `must` be saved, because it ends here, OutOfReach is raised."""

        def checkpoint():
            scores = self.evaluated.get(step)
            metrics = {"exact_accuracy": scores["exact_accuracy"]} if scores else None
            meta = {"elapsed_s": time.monotonic() - self._began}
            if self._group.first:  # which alone writes it
                meta["seconds"] = self.seconds()
            self.checkpoints.save(step, state, meta, metrics)

        if silence := self._silence(self.checkpoints.wait):
            self._say(f"note: {reason(silence)}; there is no checkpoint of the save before step {step}")
        # Records first: what was logged up to here must not be lost with the process.
        for act in (self._writers.sync, checkpoint):
            if silence := self._silence(act):
                if must:
                    raise silence
                self._say(f"note: {reason(silence)}; training goes on from step {step}, and saves later")
                return
        self._keep_count(at_once=True)

    def _silence(self, act: Callable[[], object]) -> OutOfReach | None:
        """Do `act` at all processes; why the storage did not answer one of them. Raises what else goes wrong here.

        Those that waited in vain for the one without an answer are out of reach as well.
        """
        problem, place = None, str(self.workdir) if isinstance(self.workdir, BucketPath) else ""
        try:
            act()
        except Exception as error:  # noqa: BLE001 - raised below, once every process knows of it
            problem = storage_problem(error, place) or error
        silences = self._group.gather(str(problem) if isinstance(problem, OutOfReach) else "")
        if problem and not isinstance(problem, OutOfReach | Elsewhere):
            raise problem
        if silence := next(filter(None, silences), ""):
            return OutOfReach(silence)
        if problem:
            raise problem
        return None

    def close(self) -> None:
        try:
            self._writers.close()
        finally:
            self._beside.close()
