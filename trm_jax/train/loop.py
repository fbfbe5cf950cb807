"""The training loop, top to bottom: data, mesh, state, resume, steps."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import jax

from trm_jax import compiler, sharding
from trm_jax.data import stream
from trm_jax.evals.runner import Evaluator
from trm_jax.train.checkpoint import Checkpoints
from trm_jax.train.config import RunConfig
from trm_jax.train.progress import Progress
from trm_jax.train.state import (
    evaluation_params,
    initial_state,
    optimizer,
    state_shardings,
    with_shardings,
    zero_sums,
)
from trm_jax.train.step import log_record, make_train_step
from trm_jax.train.stopping import StopRequest
from trm_jax.train.writers import METRICS_FILE, JsonlWriter, TensorboardWriter, WandbWriter, Writers, read_jsonl

CHECKPOINTS = "checkpoints"


class Diverged(RuntimeError):
    """The loss or a gradient stopped being finite."""


@dataclass
class Outcome:
    """How a call of `train` ended: `step` of `total_steps`, stopped by signal `stopped_by` or done (empty)."""

    step: int
    total_steps: int
    stopped_by: str = ""
    last_eval: dict = field(default_factory=dict)


def _writers(cfg: RunConfig, workdir: Path, resume_step: int, config: dict) -> Writers:
    if jax.process_index() != 0:
        return Writers([])
    writers = [JsonlWriter(workdir / METRICS_FILE, resume_step)]
    if cfg.log.tensorboard:
        writers.append(TensorboardWriter(workdir / "tensorboard", resume_step))
    if cfg.log.wandb_project:
        writers.append(WandbWriter(workdir, cfg.log.wandb_project, cfg.name, config))
    return Writers(writers)


def train(
    cfg: RunConfig, data, workdir: Path, *, config: dict, stop: StopRequest, stream_to=None, devices=None
) -> Outcome:
    """Train (or go on training) in `workdir` until the budget is spent or `stop` is set.

    data: (train source, evaluation source). config: the resolved settings as a nested dict, for writers that keep it.
    devices: those the mesh spans (default: all).
    Raises Diverged, and InputError for what a person can mend.
    """
    with ExitStack() as closing:  # whatever goes wrong, the terminal, the files and the checkpoints are left in order
        return _train(cfg, data, workdir, config, stop, stream_to, devices, closing)


def _train(cfg: RunConfig, data, workdir: Path, config: dict, stop, stream_to, devices, closing: ExitStack) -> Outcome:
    train_data, eval_data = data
    info = train_data.info
    groups = (info.groups, info.mean_examples_per_puzzle)
    total_steps = cfg.total_steps(*groups)
    eval_every = cfg.eval_interval_steps(*groups, total_steps)
    batch_size = cfg.train.batch_size

    # 1. Where everything lies.
    mesh = sharding.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, devices)
    rules = sharding.Rules()
    sharding.check_batch(mesh, rules, batch_size, "train.batch_size")
    batch_lies = sharding.batch_sharding(mesh, rules)
    tx = optimizer(cfg, total_steps)
    abstract, shardings = state_shardings(cfg, tx, mesh, rules)

    # 2. The compiled functions.
    train_step = jax.jit(
        make_train_step(cfg, tx, total_steps),
        in_shardings=(shardings, batch_lies),
        out_shardings=shardings,
        donate_argnums=0,
        compiler_options=compiler.options(),
    )
    evaluate = Evaluator(
        cfg.model, eval_data, mesh=mesh, rules=rules, batch_size=cfg.eval.batch_size, max_examples=cfg.eval.max_examples
    )

    # 3. The state: the newest good checkpoint, or the beginning.
    progress = Progress(cfg.name, total_steps, stream=stream_to)
    closing.callback(progress.close)
    checkpoints = Checkpoints(workdir / CHECKPOINTS, cfg.checkpoint, say=progress.say)
    closing.callback(checkpoints.close)
    restored = checkpoints.restore_latest(with_shardings(abstract, shardings))
    if restored:
        start, state, meta = restored
        progress.say(f"going on from step {start} of {total_steps}")
    else:
        start, meta = 0, {"elapsed_s": 0.0}
        state = jax.jit(lambda: initial_state(cfg, tx), out_shardings=shardings)()
    progress.start(start)
    writers = _writers(cfg, workdir, start, config)
    closing.callback(writers.close)
    evaluated = {r["step"]: r for r in read_jsonl(workdir / METRICS_FILE) if r["kind"] == "eval"}

    began = time.monotonic() - meta["elapsed_s"]
    last = {"step": start, "time": time.monotonic()}
    pending = None  # (step, sums, first_bad_step) still on the device: fetched one logging step late

    def write_pending():
        nonlocal pending
        if pending is None:
            return
        step, sums, bad = jax.device_get(pending)
        pending = None
        if bad >= 0:
            raise Diverged(
                f"the loss or a gradient is not finite at step {bad}; the last good checkpoint in "
                f"{workdir / CHECKPOINTS} is kept; lower optim.lr or raise the precision (model.dtype)"
            )
        now = time.monotonic()
        rate = (step - last["step"]) / max(now - last["time"], 1e-9)
        last.update(step=int(step), time=now)
        record = log_record(int(step), sums, cfg)
        record["clock"] = {"elapsed_s": now - began, "steps_per_s": rate, "examples_per_s": rate * batch_size}
        writers.write(record)
        progress.record(record)

    def take_sums(step):
        nonlocal state, pending
        write_pending()
        # first_bad_step is copied: the state it belongs to is donated to the next step.
        pending = (step, state.sums, state.first_bad_step + 0)
        state = state.replace(sums=jax.device_put(zero_sums(), shardings.sums))

    def save(step):
        # What was logged up to here must not be lost with the process, nor a bad state replace a good one.
        write_pending()
        if int(state.first_bad_step) >= 0:
            take_sums(step)
            write_pending()
        writers.sync()
        scores = evaluated.get(step)
        metrics = {"exact_accuracy": scores["exact_accuracy"]} if scores else None
        checkpoints.save(step, state, {"elapsed_s": time.monotonic() - began}, metrics)

    def run_evaluation(step):
        write_pending()
        scores = evaluate(evaluation_params(state), on_batch=lambda done, total: bool(stop))
        if scores is None:
            return
        record = {"kind": "eval", "step": step, **scores, "eval_set": eval_data.digest}
        record["clock"] = {"elapsed_s": time.monotonic() - began}
        evaluated[step] = record
        writers.write(record)
        progress.record(record)
        last.update(time=time.monotonic())

    def evaluation_due(step):
        return step > 0 and (step % eval_every == 0 or step == total_steps) and step not in evaluated

    # 4. The steps.
    # Collectives of several CPU devices share one thread pool and can starve each other when steps are queued.
    one_at_a_time = mesh.size > 1 and jax.default_backend() == "cpu"
    step = start
    batches = stream.batches(
        train_data,
        seed=cfg.seed,
        batch_size=batch_size,
        slots=sharding.local_slots(batch_lies, batch_size),
        start_step=start,
        stop_step=total_steps,
        epochs_per_interval=None if cfg.train.steps or cfg.eval.every_steps else cfg.eval.every_epochs or None,
    )
    if evaluation_due(start):  # a stop fell into this evaluation
        run_evaluation(start)
        if start in evaluated:
            save(start)
    for batch in batches:
        if stop:
            break
        state = train_step(state, sharding.put_batch(batch_lies, batch, batch_size))
        step += 1
        if one_at_a_time:
            jax.block_until_ready(state.step)
        if step % cfg.log.every_steps == 0 or step == total_steps:
            take_sums(step)
        if evaluation_due(step):
            run_evaluation(step)
        if step in evaluated or step % cfg.checkpoint.every_steps == 0 or step == total_steps:
            save(step)
        progress.step(step)
    if stop:
        save(step)
    write_pending()
    checkpoints.wait()
    unfinished = step < total_steps or total_steps not in evaluated
    last_eval = evaluated[max(evaluated)] if evaluated else {}
    return Outcome(step, total_steps, stop.name if unfinished else "", last_eval)
