"""The training loop, top to bottom: programs, states, resume, steps."""

from __future__ import annotations

import platform
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np

import trm_jax
from trm_jax.data import loader as stream
from trm_jax.distributed.process_group import ProcessGroup
from trm_jax.models import params, trm
from trm_jax.train import cost
from trm_jax.train.checkpoint import newest_common
from trm_jax.train.clock import Clock
from trm_jax.train.config import RunConfig
from trm_jax.train.lane import CHECKPOINTS, Job, Lane
from trm_jax.train.programs import Programs
from trm_jax.train.progress import Progress
from trm_jax.train.stopping import StopRequest

__all__ = ["CHECKPOINTS", "Diverged", "Job", "Outcome", "train", "train_side_by_side"]


class Diverged(RuntimeError):
    """The loss or a gradient stopped being finite."""


@dataclass
class Outcome:
    """How training ended: `step` of `total_steps`; stopped by signal `stopped_by`, diverged, or done (both empty)."""

    step: int
    total_steps: int
    stopped_by: str = ""
    diverged: str = ""
    last_eval: dict = field(default_factory=dict)
    seconds: dict = field(default_factory=dict)  # of all its lives, by what they were spent on; at process 0


def train(
    cfg: RunConfig,
    data,
    workdir: Path,
    *,
    config: dict,
    stop: StopRequest,
    stream_to=None,
    devices=None,
    group: ProcessGroup | None = None,
) -> Outcome:
    """Train (or go on training) in `workdir` until the budget is spent or `stop` is set.

    data: (train source, evaluation source). config: the resolved settings as a nested dict, for writers that keep it.
    devices: those the mesh spans (default: all). group: the processes that train it together (default: this one).
    Raises Diverged, and InputError for what a person can mend.
    """
    jobs = [Job(cfg, config, workdir)]
    [outcome] = train_side_by_side(jobs, data, stop=stop, stream_to=stream_to, devices=devices, group=group)
    if outcome.diverged:
        raise Diverged(outcome.diverged)
    return outcome


def train_side_by_side(
    jobs: list[Job], data, *, stop: StopRequest, stream_to=None, devices=None, group: ProcessGroup | None = None
) -> list[Outcome]:
    """The same for several runs that differ in numbers only, as one vectorised program: an outcome for each.

    They go in step, each with its own folder, records and checkpoints. One that diverges is trained no more.
    """
    with ExitStack() as closing:  # whatever goes wrong, the terminal, the files and the checkpoints are left in order
        return _train(jobs, data, stop, stream_to, devices, group or ProcessGroup(), closing)


def _facts(cfg: RunConfig, programs: Programs, info, num_puzzles: int) -> dict:
    """What a reader of the run wants to know of its program and machine."""
    specs = trm.param_specs(cfg.model)
    examples_per_epoch = info.groups * info.mean_examples_per_puzzle
    return {
        "name": cfg.name,
        "seed": cfg.seed,
        "total_steps": programs.total_steps,
        "batch_size": cfg.train.batch_size,
        "parameters": params.count(specs["weights"]),
        "puzzle_table": params.count(specs["puzzle_emb"]),
        "groups": info.groups,
        "train_flops": cost.train_flops(cfg, programs.total_steps, examples_per_epoch),
        "eval_flops": cost.eval_flops(cfg, num_puzzles),
        "flops_per_step": cost.step_flops(cfg),
        "device_kind": programs.mesh.devices.flat[0].device_kind,
        "devices": programs.mesh.size,
        "processes": jax.process_count(),
        "backend": jax.default_backend(),
        "versions": {
            "trm_jax": trm_jax.__version__,
            "jax": jax.__version__,
            "jaxlib": jax.lib.__version__,
            "python": platform.python_version(),
        },
        "pack": len(programs.cfgs),
    }


def _train(jobs: list[Job], data, stop, stream_to, devices, group: ProcessGroup, closing: ExitStack) -> list[Outcome]:
    clock = Clock()
    train_data, eval_data = data
    info = train_data.info
    cfg = jobs[0].cfg  # in all but numbers and folders they are alike

    # 1. The compiled functions, and where everything lies.
    programs = Programs([job.cfg for job in jobs], data, devices)
    total_steps = programs.total_steps
    evaluation_steps = cfg.evaluation_steps(info.groups, info.mean_examples_per_puzzle, total_steps)

    # 2. The state: the newest good checkpoint, or the beginning.
    title = cfg.name if len(jobs) == 1 else f"{len(jobs)} runs"
    progress = Progress(title, total_steps, stream=stream_to, quiet=not group.first)
    closing.callback(progress.close)
    for warning in dict.fromkeys(line for job in jobs for line in job.cfg.warnings(total_steps)):
        progress.say(f"note: {warning}")
    lanes = []
    for job in jobs:
        lanes.append(Lane(job, progress.say, group))
        closing.callback(lanes[-1].checkpoints.close)
    restored = newest_common([lane.checkpoints for lane in lanes], programs.abstract)
    if restored:
        start, states, metas = restored
        state = programs.join(states)
        progress.say(f"going on from step {start} of {total_steps}")
    else:
        start, metas = 0, [{"elapsed_s": 0.0}] * len(lanes)
        state = programs.first_state()
    progress.start(start)
    for lane, meta in zip(lanes, metas, strict=True):
        lane.begin(start, meta, _facts(lane.cfg, programs, info, programs.evaluate.total), clock)
        closing.callback(lane.close)

    pending = None  # (step, trained_s, sums, first_bad_step), the last two on the device: fetched one log line late
    stopping = save_asked = False
    saved_at = time.monotonic()

    def told_to_stop():
        """Called once a step and once a batch of an evaluation, by every process alike."""
        nonlocal stopping
        stopping = group.stop_agreed(stop.name)
        return stopping

    def save_due():
        """Asked by all processes alike; the clock of process 0 decides."""
        minutes = cfg.checkpoint.every_minutes
        return bool(minutes) and group.agree(time.monotonic() - saved_at > 60 * minutes)

    def alive():
        return [lane for lane in lanes if not lane.diverged]

    def show(lane, record):
        progress.record(record, "" if len(lanes) == 1 else lane.workdir.name)

    def give_up(bad_steps):
        for lane, bad in zip(lanes, np.ravel(bad_steps), strict=True):
            if bad >= 0 and not lane.diverged:
                lane.give_up(int(bad))
                if len(lanes) > 1:
                    progress.say(f"{lane.workdir.name}: {lane.diverged}")

    def write_pending():
        nonlocal pending
        if pending is None:
            return
        step, trained_s, *sums_and_bad_steps = pending
        waiting = not pending[-1].is_ready()
        sums, bad_steps = jax.device_get(sums_and_bad_steps)
        if waiting:  # the step has ended now; otherwise about when it was asked for
            trained_s = clock.training_s()
        pending = None
        give_up(bad_steps)
        for lane, own in zip(lanes, programs.lanes_of(sums), strict=True):
            if not lane.diverged:
                show(lane, lane.log_training(step, own, trained_s))

    def take_sums(step):
        nonlocal state, pending
        write_pending()
        # first_bad_step is copied: the state it belongs to is donated to the next step.
        pending = (step, clock.training_s(), state.sums, state.first_bad_step + 0)
        state = programs.without_sums(state)

    def save(step):
        nonlocal saved_at
        saved_at = time.monotonic()
        write_pending()
        give_up(jax.device_get(state.first_bad_step))  # a bad state must not replace a good one
        with clock.doing("checkpoint"):
            for lane, own in zip(lanes, programs.split(state), strict=True):
                if not lane.diverged:
                    lane.save(step, own, must=stopping or step == total_steps)

    def run_evaluation(step):
        write_pending()
        give_up(jax.device_get(state.first_bad_step))
        if not alive():
            return
        with clock.doing("evaluation"):
            scores = programs.scores(state, on_batch=lambda done, total: told_to_stop())
        for lane, own in zip(lanes, scores or [], strict=bool(scores)):
            if not lane.diverged:
                show(lane, lane.log_evaluation(step, own, eval_data.digest))

    def evaluated(step):
        return all(step in lane.evaluated for lane in alive())

    def evaluation_due(step):
        return step in evaluation_steps and not evaluated(step)

    # 3. The steps.
    step = start
    interval = cfg.eval.every_epochs or None
    counted_in_steps = cfg.train.steps or cfg.train.examples or cfg.eval.every_steps
    streams = {
        seed: stream.batches(
            train_data,
            seed=seed,
            batch_size=cfg.train.batch_size,
            slots=programs.slots,
            start_step=start,
            stop_step=total_steps,
            epochs_per_interval=None if counted_in_steps else interval,
        )
        for seed in dict.fromkeys(lane.cfg.seed for lane in lanes)
    }
    if evaluation_due(start):  # a stop fell into this evaluation
        run_evaluation(start)
        if evaluated(start):
            save(start)
    clock.go_on_with("data")
    for batches in zip(*streams.values(), strict=True):
        clock.go_on_with("train")
        if told_to_stop() or not alive():
            break
        by_seed = dict(zip(streams, batches, strict=True))
        state = programs.train_step(state, step, [by_seed[lane.cfg.seed] for lane in lanes])
        step += 1
        if step % cfg.log.every_steps == 0 or step == total_steps:
            take_sums(step)
            save_asked = save_asked or save_due()
        if evaluation_due(step):
            run_evaluation(step)
        if evaluated(step) or step % cfg.checkpoint.every_steps == 0 or save_asked or step == total_steps:
            save_asked = False
            save(step)
        progress.step(step)
        clock.go_on_with("data")
    clock.go_on_with("train")
    if stopping and alive():
        save(step)
    write_pending()
    with clock.doing("checkpoint"):
        for lane in lanes:
            lane.checkpoints.wait()
    for lane in lanes:
        lane.write_goodput(stopped_at=step)
    unfinished = step < total_steps or not evaluated(total_steps)
    return [
        Outcome(
            step,
            total_steps,
            stopped_by=group.stop_reason if unfinished and not lane.diverged else "",
            diverged=lane.diverged,
            last_eval=lane.evaluated[max(lane.evaluated)] if lane.evaluated else {},
            seconds=lane.seconds() if group.first else {},
        )
        for lane in lanes
    ]
