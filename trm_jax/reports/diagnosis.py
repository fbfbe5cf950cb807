"""The page of RUN/diagnostics.json: figures from what `trm_jax.evals.diagnose` measured.

T = supervision steps, N = puzzles.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from trm_jax.reports.statistics import auroc, wilson

BINS, STRATA = 10, 6
Arrays = Mapping[str, np.ndarray]


def page(sums: Arrays, rows: Arrays, strata: Arrays, training: Arrays | None = None) -> dict:
    """The page from sums [T] and rows [N] of held-out puzzles, what makes them hard [N], and rows of training ones."""
    known = rows["known"] > 0
    kept = {name: x[known] for name, x in rows.items()}
    found = summary(sums, kept)
    found["strata"] = {
        name: by_stratum(np.asarray(x)[: len(known)][known], kept["score"]) for name, x in strata.items()
    }
    if training is not None:
        found["training"] = interval(training["score"][training["known"] > 0])
    return found


def summary(sums: Arrays, rows: Arrays) -> dict:
    """The figures of rows [N] that are scored and of their sums [T]; None where there is nothing to say."""
    from scipy.special import expit

    score, at, steps = rows["score"], rows["settled_at"], len(sums["score"])
    by_step = {name: (total / max(len(score), 1)).tolist() for name, total in sums.items()}
    for name in ("residual", "changed"):
        by_step[name][0] = None  # before the first step there is no thought to compare with
    quiet = at <= steps - -(-steps // 4)  # the answer did not change in the last quarter of the steps
    rules = [name.removesuffix("_stopped") for name in rows if name.endswith("_stopped")]
    return {
        "supervision_steps": steps,
        "held_out": interval(score),
        "by_step": by_step,
        "settling": {
            "settled": _mean(quiet),
            "score_settled": _mean(score[quiet]),
            "score_wandering": _mean(score[~quiet]),
            "settled_at": np.bincount(at.astype(int), minlength=steps + 1)[1:].tolist(),
        },
        "stopping": {
            rule: {what: _mean(rows[f"{rule}_{what}"]) for what in ("score", "steps", "stopped")} for rule in rules
        },
        "calibration": calibration(expit(rows["q_halt"]), rows["exact"]) if len(score) else {},
    }


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def interval(scores: np.ndarray) -> dict:
    """The mean of scores [n] with Wilson's interval."""
    if not len(scores):
        return {"n": 0, "score": None, "low": None, "high": None}
    mean = float(np.mean(scores))
    low, high = wilson(mean, len(scores))
    return {"n": len(scores), "score": mean, "low": low, "high": high}


def calibration(chance: np.ndarray, right: np.ndarray) -> dict:
    """How well chances [N] say what is right [N]: bins of equal counts, expected calibration error over them, Brier
    score, and the chance that a right one ranks above a wrong one (AUROC, ties count half; None without both)."""
    parts = np.array_split(np.argsort(chance, kind="stable"), min(BINS, len(chance)))
    bins = [{"n": len(p), "q": _mean(chance[p]), "exact": _mean(right[p])} for p in parts]
    return {
        "bins": bins,
        "ece": sum(one["n"] * abs(one["q"] - one["exact"]) for one in bins) / len(chance),
        "brier": float(np.mean((chance - right) ** 2)),
        "auroc": auroc(chance, right),
    }


def by_stratum(values: np.ndarray, scores: np.ndarray) -> list[dict]:
    """Mean scores [N] with intervals by value [N], in at most six parts that are about as large as each other."""
    if not len(values):
        return []
    starts = np.unique(values)
    if len(starts) > STRATA:
        starts = np.unique(np.quantile(values, np.arange(STRATA) / STRATA, method="lower"))
    part = np.searchsorted(starts, values, side="right") - 1
    here = [part == number for number in range(len(starts))]
    return [{"from": values[p].min().item(), "to": values[p].max().item(), **interval(scores[p])} for p in here]
