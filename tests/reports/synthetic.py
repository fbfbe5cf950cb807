"""Run folders as training writes them, with figures that the caller knows: config.json, run.json, metrics.jsonl."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np

from trm_jax.configs import registry, resolve
from trm_jax.configs.workdir import claim
from trm_jax.models import params
from trm_jax.train import clock
from trm_jax.train.curriculum import train_flops

EVALUATIONS, LINES_BETWEEN = 10, 5


def write_run(
    workdir: Path,
    name: str,
    *,
    seed: int = 0,
    accuracy: float = 0.86,
    changes: dict | None = None,
    evaluations: int = EVALUATIONS,
    eval_set: str = "5e7",
    facts: dict | None = None,
    examples_per_s: float = 1000.0,
    halt_step: float = 4.0,
    reaches: tuple[float, float] | None = None,
    noise_of: str = "",
    old: bool = False,
    spent: dict[str, float] | None = None,
    lives: int = 1,
) -> Path:
    """A run of experiment `name` that ends at `accuracy`, after `evaluations` of its ten evaluations.

    Accuracy grows as 1 - exp(-3 t) of its end, or with `reaches` (level, share of the run) jumps to that level there;
    the mean halt step is near `halt_step`. noise_of: the experiment whose losses are logged, by default its own.
    `old`: without the records that only newer versions write (run.json's facts, halting, clocks). `spent`: seconds by
    kind of time, for runs that have a goodput.json; `lives` stand there too.
    """
    config = resolve.override(registry.get(name), {"seed": seed, **(changes or {})})
    with claim(workdir, config):
        pass
    cfg = resolve.freeze(config)
    groups = cfg.data.train_puzzles or 1000
    total_steps = cfg.total_steps(groups, 1.0)
    rng = np.random.default_rng([seed, zlib.crc32((noise_of or name).encode())])
    records = []
    for index in range(1, evaluations + 1):
        records += _between(cfg, total_steps, index, accuracy, rng, examples_per_s, old)
        exact = accuracy * grown(index / EVALUATIONS)
        if reaches and index < EVALUATIONS:
            exact = reaches[0] * (index / EVALUATIONS >= reaches[1])
        records.append(_evaluation(cfg, total_steps, index, exact, halt_step, eval_set, examples_per_s, old))
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    described = {"total_steps": total_steps} if old else _facts(cfg, total_steps, groups)
    (workdir / "run.json").write_text(json.dumps(described | (facts or {})))
    if spent is not None:
        seconds = {**dict.fromkeys(clock.KINDS, 0.0), **spent}
        (workdir / clock.GOODPUT_FILE).write_text(clock.to_json(seconds, lives, 1e9))
    return workdir


def grown(t: float) -> float:
    """The share of its final accuracy that a run has after a share `t` of its steps."""
    return float((1 - np.exp(-3 * t)) / (1 - np.exp(-3)))


def write_group(root: Path, group: str, *, seeds: int = 1, skip: tuple[str, ...] = (), **how) -> dict[str, float]:
    """Runs of a group's experiments, each once; the accuracies that they end near, by the name of the experiment.

    Accuracy rises with the place in the group and saturates; seeds lie 0.002 apart.
    """
    members = [registry.run_name(experiment.name) for experiment in registry.groups()[group].experiments]
    ends = {name: 0.88 - 0.08 * 0.4**place for place, name in enumerate(members) if name not in skip}
    for place, (name, end) in enumerate(ends.items()):
        for seed in range(seeds):
            workdir = root / (name if seeds == 1 else f"{name}-seed{seed}")
            if not workdir.exists():
                own = {"examples_per_s": 1000.0 / (1 + place), "halt_step": 3.0 + place / 2} | how
                write_run(workdir, name, seed=seed, accuracy=end + 0.002 * seed, **own)
    return ends


def _facts(cfg, total_steps: int, groups: int) -> dict:
    specs = cfg.family.specs(cfg.model)
    step_flops, eval_flops = cfg.family.flops(cfg.model)
    return {
        "name": cfg.name,
        "seed": cfg.seed,
        "total_steps": total_steps,
        "batch_size": cfg.train.batch_size,
        "parameters": params.count(specs["weights"]),
        "puzzle_table": params.count(specs.get("puzzle_emb", [])),
        "groups": groups,
        "train_flops": train_flops(cfg, total_steps, groups),
        "eval_flops": 500 * eval_flops,
        "flops_per_step": cfg.train.batch_size * step_flops,
        "device_kind": "cpu",
        "devices": 1,
        "backend": "cpu",
        "versions": {"trm_jax": "0.1", "jax": "0.10", "jaxlib": "0.10", "python": "3.11"},
    }


def _clock(cfg, step: int, examples_per_s: float, speed: bool) -> dict:
    steps_per_s = examples_per_s / cfg.train.batch_size
    clock = {"elapsed_s": step / steps_per_s, "peak_memory_bytes": 2**30 + cfg.model.hidden_size * 2**20}
    return clock | ({"steps_per_s": steps_per_s, "examples_per_s": examples_per_s} if speed else {})


def _between(cfg, total_steps: int, index: int, accuracy: float, rng, examples_per_s: float, old: bool):
    """Training lines up to evaluation number `index`."""
    first = total_steps * (index - 1) // EVALUATIONS
    last = total_steps * index // EVALUATIONS
    for step in sorted({first + (last - first) * k // LINES_BETWEEN for k in range(1, LINES_BETWEEN + 1)} - {first, 0}):
        t = step / total_steps
        record = {
            "kind": "train", "step": step, "examples": step * cfg.train.batch_size,
            "loss": float(2.2 * np.exp(-2 * t) + 0.01 * rng.normal()), "lm_loss": 2.0, "q_loss": 0.1,
            "grad_norm": float(0.5 + 0.05 * rng.random()), "lr": cfg.optim.lr, "halted": 640.0,
            "accuracy": 0.9, "exact_accuracy": min(1.0, accuracy * grown(t) + 0.05),
            "q_halt_accuracy": 0.9, "steps": 4.0,
        }  # fmt: skip
        if not old:
            record["halt_steps"] = _halts(cfg.model.halt_max_steps, 5.0, 640)
            record["clock"] = _clock(cfg, step, examples_per_s, speed=True)
        if cfg.scales_loss:
            record |= {"loss_scale": 32768.0, "skipped": 1}
        yield record


def _halts(halt_max: int, mean: float, count: int) -> list[int]:
    """About `count` sequences around step `mean`, what lies beyond the last step in it."""
    steps = np.arange(1, 4 * halt_max + 1)
    weights = np.exp(-0.5 * ((steps - mean) / (mean / 3)) ** 2)
    counts = np.round(count * weights / weights.sum()).astype(int)
    return [*counts[: halt_max - 1].tolist(), int(counts[halt_max - 1 :].sum())]


def _evaluation(cfg, total_steps, index, exact, halt_step, eval_set, examples_per_s, old) -> dict:
    t = index / EVALUATIONS
    step = total_steps * index // EVALUATIONS
    record = {
        "kind": "eval", "step": step, "exact_accuracy": exact, "accuracy": exact**0.2,
        "q_halt_accuracy": 0.9, "steps": float(cfg.model.halt_max_steps), "count": 500, "eval_set": eval_set,
    }  # fmt: skip
    if not old:
        halts = _halts(cfg.model.halt_max_steps, halt_step * (2 - t), 500)
        mean = sum((k + 1) * count for k, count in enumerate(halts)) / sum(halts)
        record |= {"early_exit_steps": mean, "early_exit_exact_accuracy": exact - 0.01, "halt_steps": halts}
        record["clock"] = _clock(cfg, step, examples_per_s, speed=False)
        for decay in cfg.optim.other_decays:
            name = f"exact_accuracy_ema_{decay:g}" if decay else "exact_accuracy_live"
            record[name] = exact - 0.02 - 0.001 * cfg.seed
    return record
