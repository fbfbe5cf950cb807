"""The training loop, top to bottom: data, compiled functions, state, steps."""

from __future__ import annotations

import platform
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import jax
import numpy as np

import trm_jax
from trm_jax.data import loader
from trm_jax.distributed.checks import require_same
from trm_jax.distributed.process_group import Elsewhere, ProcessGroup
from trm_jax.errors import InputError, OutOfReach
from trm_jax.evals.runner import Evaluator
from trm_jax.models import params
from trm_jax.storage.bucket import problem as storage_problem
from trm_jax.storage.paths import AnyPath
from trm_jax.train.checkpoint import Checkpoints
from trm_jax.train.clock import Clock
from trm_jax.train.compiled import Compiled
from trm_jax.train.config import RunConfig
from trm_jax.train.curriculum import train_flops
from trm_jax.train.profile import Profile
from trm_jax.train.progress import Progress, reading
from trm_jax.train.recorder import Diverged, Recorder
from trm_jax.train.state import evaluation_params
from trm_jax.train.stopping import StopRequest
from trm_jax.train.writers import CHECKPOINTS, PREDICTIONS

__all__ = ["CHECKPOINTS", "Diverged", "Outcome", "train"]


@dataclass
class Outcome:
    """How training ended: at `step` of `total_steps`; `stopped_by` a signal, or done (empty)."""

    step: int
    total_steps: int
    stopped_by: str = ""
    last_eval: dict = field(default_factory=dict)
    seconds: dict = field(default_factory=dict)  # since the run first started, by what they were spent on; at process 0


def train(
    cfg: RunConfig,
    workdir: AnyPath,
    *,
    stop: StopRequest | None = None,
    data=None,
    stream_to=None,
    devices=None,
    group: ProcessGroup | None = None,
) -> Outcome:
    """Train (or go on training) in `workdir` until the budget is spent or `stop` is set.

    data: (train source, evaluation source); by default the task loads them. devices: those the mesh spans (default:
    all). group: the processes that train it together (default: this one). Raises Diverged, which names the step; its
    last good checkpoint is kept. Raises InputError for what a person can mend.
    """
    with ExitStack() as closing:  # whatever goes wrong, the terminal, the files and the checkpoints are left in order
        return _train(
            cfg,
            workdir,
            StopRequest() if stop is None else stop,
            data,
            stream_to,
            devices,
            group or ProcessGroup(),
            closing,
        )


def _train(cfg, workdir, stop, data, stream_to, devices, group: ProcessGroup, closing: ExitStack) -> Outcome:
    # 1. The data, and the compiled functions.
    clock = Clock()
    with clock.doing("data"):
        train_data, eval_data = data or _load(cfg, group, stop, stream_to)
    lineage, seen = _learned(cfg)
    if hasattr(eval_data, "of_run"):
        eval_data = eval_data.of_run(lineage)
    info = train_data.info
    compiled = Compiled(cfg, info, devices)
    total_steps, mesh = compiled.total_steps, compiled.mesh
    evaluate = Evaluator(cfg, eval_data, mesh)
    evaluation_steps = cfg.evaluation_steps(info.groups, info.mean_examples_per_puzzle, total_steps)

    # 2. What a person sees, and what is kept.
    progress = Progress(
        cfg.name,
        total_steps,
        cfg.task.headline,
        held_out=evaluate.total,
        scored=cfg.scored,
        stream=stream_to,
        quiet=not group.first,
    )
    closing.callback(progress.close)
    facts = _facts(cfg, compiled, info, len(eval_data))
    progress.say(_opening_line(facts, group, f"{len(eval_data):,} {cfg.scored.replace('-', ' ')}", workdir))
    notes = getattr(eval_data, "notes", tuple)() if group.first else ()
    if seen:
        notes = (*notes, f"what it begins with was trained on {seen}; predictions are marked so")
    for note in (*cfg.warnings(total_steps), *notes):
        progress.say(f"note: {note}")
    rooms = group.gather(compiled.room)
    compiled.room = None if None in rooms else min(rooms)
    if compiled.settled(cfg.model) != cfg.model and compiled.settled(cfg.model).remat == "block":
        progress.say("note: activations are computed again, for the memory is too small for them (model.remat=auto)")
    checkpoints = Checkpoints(workdir / CHECKPOINTS, cfg.task.headline, cfg.checkpoint, progress.say, group)
    closing.callback(checkpoints.close)
    recorder = Recorder(cfg, workdir, clock, group, progress.say)
    closing.callback(recorder.close)

    # 3. The state: the newest good checkpoint, or the beginning.
    restored = checkpoints.restore_latest(compiled.abstract)
    step, state, meta = restored or (0, compiled.first_state(train_data), {})
    if restored:
        progress.say(f"going on from step {step} of {total_steps}")
    progress.start(step)
    recorder.begin(step, meta, facts)
    saved_at = time.monotonic()

    def told_to_stop() -> bool:
        """Asked once a step and once a batch of an evaluation, by every process alike."""
        return group.stop_agreed(stop.name if stop else "")

    def long_ago() -> bool:
        """Whether the last checkpoint is too old by the clock of this process."""
        return time.monotonic() - saved_at > 60 * (cfg.checkpoint.every_minutes or float("inf"))

    def evaluation_due() -> bool:
        return (step in evaluation_steps or step == total_steps) and step not in recorder.evaluated

    def run_evaluation() -> None:
        """Score the weights; given up without a record when the run is told to stop."""
        progress.record(recorder.settle())
        first = 0 if step == total_steps else cfg.eval.max_examples_before_end
        with clock.doing("evaluation"):
            scores = {}
            for name, of_name in evaluation_params(state).items():
                found = evaluate(of_name, lambda done, total: told_to_stop(), first)
                if found is None:
                    return
                if name:
                    scores |= {f"{key}_{name}": found[key] for key in found if key == cfg.task.headline}
                    continue
                scores |= found
                if evaluate.ballot and step == total_steps and group.first:
                    said = {"checkpoints": [step], "supervision_steps": evaluate.steps}
                    said |= {"contaminated": seen} if seen else {}
                    evaluate.ballot.write(workdir / PREDICTIONS, cfg.name, f"trm train {cfg.name}", said)
        progress.record(recorder.log_evaluation(step, scores, eval_data.digest))

    def save(must: bool) -> None:
        """Start a checkpoint. A storage that does not answer is told of, and training goes on: to end it would lose
        more. When the run `must` be saved, because it ends here, OutOfReach is raised."""
        progress.record(recorder.settle())  # raises Diverged: a bad state must not replace a good one
        score = recorder.evaluated.get(step, {}).get(cfg.task.headline)
        with clock.doing("checkpoint"):
            if silence := _attempt(group, checkpoints.wait, workdir):
                progress.say(f"note: {silence.reason}; there is no checkpoint of the save before step {step}")
            # Records first: what was logged up to here must not be lost with the process.
            for act in (recorder.sync, lambda: checkpoints.save(step, state, recorder.meta(), score)):
                if silence := _attempt(group, act, workdir):
                    if must:
                        raise silence
                    progress.say(f"note: {silence.reason}; training goes on from step {step}, and saves later")
                    return
        recorder.keep_count()

    # 4. The steps.
    if evaluation_due():  # a stop fell into this evaluation
        run_evaluation()
        if not evaluation_due():
            save(must=False)
    clock.go_on_with("data")
    profile = Profile(workdir, cfg.log.profile_steps, step, progress.say, quiet=not group.first)
    closing.callback(profile.close)
    stopping = False
    try:
        for rows in _batches(cfg, train_data, compiled, step):
            clock.go_on_with("train")
            if stopping := told_to_stop():
                break
            profile.before(step, state)
            state, sums = compiled.train_step(state, step, rows)
            step += 1
            recorder.take(step, sums)
            at_log = step % cfg.log.every_steps == 0 or step == total_steps
            if at_log:
                progress.record(recorder.log(step))
            if due := evaluation_due():
                run_evaluation()
            evaluated = due and not evaluation_due()
            asked = (at_log or group.count == 1) and group.share(long_ago)
            if evaluated or asked or step % cfg.checkpoint.every_steps == 0 or step == total_steps:
                save(must=step == total_steps)
                saved_at = time.monotonic()
            progress.step(step)
            clock.go_on_with("data")
        clock.go_on_with("train")
        if stopping:
            save(must=True)
        progress.record(recorder.settle())
    except Diverged as error:
        recorder.write_goodput(stopped_at=step)
        raise Diverged(error.step, f"{workdir / CHECKPOINTS}" if checkpoints.steps() else "") from None

    # 5. The end.
    with clock.doing("checkpoint"):
        checkpoints.wait()
    recorder.write_goodput(stopped_at=step)
    unfinished = step < total_steps or evaluation_due()
    last = recorder.evaluated[max(recorder.evaluated)] if recorder.evaluated else {}
    seconds = recorder.seconds() if group.first else {}
    return Outcome(step, total_steps, group.stop_reason if unfinished else "", last, seconds)


def _load(cfg: RunConfig, group: ProcessGroup, stop: StopRequest, stream_to):
    """The task's data, read with a bar where that takes long; all processes must find the same."""
    with reading(stop, stream=stream_to, quiet=not group.first) as progress:
        train_data, eval_data = cfg.task.load(cfg.data, progress=progress)
    slots = np.arange(min(cfg.train.batch_size, 256))
    first = train_data.batch(0, slots, seed=cfg.seed, batch_size=cfg.train.batch_size)
    seen = {"training data": zlib.crc32(first["inputs"].tobytes()), "evaluation data": eval_data.digest}
    require_same(group, seen, "give every host the same data set")
    return train_data, eval_data


def _learned(cfg: RunConfig) -> tuple[list, str]:
    """(settings of the data of this run and of those that it goes on from, the answers among what is asked that those
    were trained on)."""
    try:
        found = {said.removeprefix("was trained on ") for one, said in cfg.seen(cfg) if one is not cfg}
        return [one.data for one in cfg.lineage(cfg.task)], "; ".join(sorted(found))
    except InputError:  # a run that goes on does not need the one that it began with
        return [cfg.data], f"nobody knows what: {cfg.train.start_from} is not there any more"


def _batches(cfg: RunConfig, train_data, compiled: Compiled, start: int):
    counted_in_steps = cfg.train.steps or cfg.train.examples or cfg.eval.every_steps
    return loader.batches(
        train_data,
        seed=cfg.seed,
        batch_size=cfg.train.batch_size,
        slots=compiled.slots,
        start_step=start,
        stop_step=compiled.total_steps,
        epochs_per_interval=None if counted_in_steps else cfg.eval.every_epochs or None,
    )


def _facts(cfg: RunConfig, compiled: Compiled, info, held_out: int) -> dict:
    """What a reader of the run wants to know of its program and machine."""
    specs, mesh = cfg.family.specs(cfg.model), compiled.mesh
    step_flops, eval_flops = cfg.family.flops(cfg.model)
    examples_per_epoch = info.groups * info.mean_examples_per_puzzle
    scored = min(cfg.eval.max_examples or held_out, held_out)
    tables = [spec for spec in specs.values() if params.is_spec(spec) and spec.kind == "rows"]
    return {
        "name": cfg.name,
        "seed": cfg.seed,
        "headline": cfg.task.headline,
        "total_steps": compiled.total_steps,
        "batch_size": cfg.train.batch_size,
        "parameters": params.count(specs["weights"]),
        "puzzle_table": params.count(tables),
        "groups": info.groups,
        "train_flops": train_flops(cfg, compiled.total_steps, examples_per_epoch),
        "eval_flops": scored * eval_flops,
        "flops_per_step": cfg.train.batch_size * step_flops,
        "device_kind": mesh.devices.flat[0].device_kind,
        "devices": mesh.size,
        "processes": jax.process_count(),
        "backend": jax.default_backend(),
        "versions": {
            "trm_jax": trm_jax.__version__,
            "jax": jax.__version__,
            "jaxlib": jax.lib.__version__,
            "python": platform.python_version(),
        },
    }


def _opening_line(facts: dict, group: ProcessGroup, asked: str, workdir: AnyPath) -> str:
    devices = f"{facts['devices']} {facts['device_kind']} device{'s' * (facts['devices'] > 1)}"
    return (
        f"{facts['name']}: {facts['parameters']:,} parameters, {facts['total_steps']:,} steps of "
        f"batch {facts['batch_size']} on {devices}{f' of {group.count} processes' * (group.count > 1)}; "
        f"{facts['groups']:,} training puzzles, {asked}; workdir {workdir}"
    )


def _attempt(group: ProcessGroup, act: Callable[[], object], workdir: AnyPath) -> OutOfReach | None:
    """Do `act` at all processes; why the storage did not answer one of them. Raises what else goes wrong here.

    Those that waited in vain for the one without an answer are out of reach as well.
    """
    problem = None
    try:
        act()
    except Exception as error:  # noqa: BLE001 - raised below, once every process knows of it
        problem = storage_problem(error, workdir) or error
    silences = group.gather(str(problem) if isinstance(problem, OutOfReach) else "")
    if problem and not isinstance(problem, OutOfReach | Elsewhere):
        raise problem
    if silence := next(filter(None, silences), ""):
        return OutOfReach(silence)
    if problem:
        raise problem
    return None
