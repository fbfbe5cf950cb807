"""How far a run has come, read from its folder."""

from __future__ import annotations

from dataclasses import dataclass

from trm_jax.configs.resolve import changed_since
from trm_jax.configs.runs import open_run, read_run_file
from trm_jax.errors import InputError
from trm_jax.sweep.plan import Run
from trm_jax.train.writers import METRICS_FILE, read_jsonl


@dataclass(frozen=True)
class Progress:
    """`total_steps` 0: not known yet. `score`: HEADLINE in the last evaluation, if any. `left_s`: seconds."""

    step: int = 0
    total_steps: int = 0
    score: float | None = None
    left_s: float | None = None


HEADLINE = "exact_accuracy"  # the score that is shown


def score_words(score: float | None) -> str:
    """'exact accuracy 0.8740'."""
    return f"{HEADLINE.replace('_', ' ')} {'-' if score is None else f'{score:.4f}'}"


def look(run: Run) -> Progress:
    """How far the run has come; nothing for a folder that cannot be read (its training says why)."""
    try:
        total = read_run_file(run.folder).get("total_steps", 0)
        records = read_jsonl(run.folder / METRICS_FILE)
    except (InputError, OSError):
        return Progress()
    step = max((record["step"] for record in records), default=0)
    elapsed_s = max((record.get("clock", {}).get("elapsed_s", 0) for record in records), default=0)
    evaluations = [record for record in records if record["kind"] == "eval"]
    return Progress(
        step=step,
        total_steps=total,
        score=evaluations[-1].get(HEADLINE) if evaluations else None,
        left_s=elapsed_s / step * max(total - step, 0) if step and total else None,
    )


def done(run: Run) -> bool:
    """Whether the folder holds this very run, with the same settings, and its last evaluation is written."""
    try:
        there = open_run(run.folder)
    except (InputError, OSError):
        return False
    return there.done and not changed_since(run.config, there.config.to_dict())
