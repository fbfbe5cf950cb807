"""What a run's compiled programs say about the run: memory, whether it fits, what to do, time at best."""

from __future__ import annotations

from collections.abc import Mapping

from trm_jax.aot.compile import versions
from trm_jax.aot.programs import Program, cycles_of, rows_of, run_stages
from trm_jax.planning import Device, memory, work
from trm_jax.train.config import RunConfig

_NAMES = {"train": "training", "eval": "evaluation"}


def figures(name: str, cfg: RunConfig, topology: Device, compiled: Mapping[Program, dict]) -> dict:
    """The record of a run on a slice, as `trm compile --json` writes it: bytes of one chip, FLOPs of all together,
    seconds at best.

    compiled: what became of its programs, in the order of `programs_of`. Where all could be compiled the record holds
    "train_bytes", "eval_bytes", "train_hours" and "eval_hours" too.
    """
    programs, found = [_program(cfg, topology, *pair) for pair in compiled.items()], work(cfg)
    complete = all(one["memory_bytes"] for one in programs)
    needed = _needed(programs) if complete else {}
    problem = _problem(cfg, topology, programs, needed)
    return {
        "name": name,
        "topology": topology.name,
        "chips": topology.chips,
        "versions": versions(),
        "steps": found.steps,
        "train_flops": found.train_flops,
        "eval_flops": found.eval_flops,
        "fits": not problem,
        "problem": problem,
        **{f"{kind}_bytes": size for kind, size in needed.items()},
        **(_hours(cfg, dict(zip(compiled, programs, strict=True))) if complete else {}),
        "programs": programs,
    }


def _program(cfg: RunConfig, topology: Device, program: Program, compiled: dict) -> dict:
    """One program: its batch, its analytic FLOPs of one execution, what became of it, seconds of its roofline."""
    kind, model = program
    rows = rows_of(cfg, kind, memory.abstract_mesh(cfg, topology.chips))
    flops = rows * cfg.family.flops(model)[kind == "eval"]
    record = {"kind": kind, "cycles": cycles_of(model), "batch_rows": rows, "flops": flops, **compiled}
    if not compiled["memory_bytes"]:
        return record
    sent = sum(total["sent_bytes"] for total in compiled["collectives_by_kind"].values())
    best = {
        "compute": flops / topology.chips / (topology.peak_tflops * 1e12),
        "memory": compiled["traffic_bytes"] / (topology.bandwidth_tb_s * 1e12),
        "links": sent / (topology.links * topology.link_gb_s * 1e9) if sent else 0.0,
    }
    busy = max(best["compute"], best["memory"])
    return record | {
        "roofline_seconds": best | {"step": max(best.values())},
        "bound_by": max(best, key=best.get),
        # The share of the time left for work if nothing else is done while the devices talk.
        "efficiency_without_overlap": busy / (busy + best["links"]),
    }


def _needed(programs: list[dict]) -> dict[str, int]:
    """Bytes of one chip while it trains: the step that needs most, and the code of the evaluation; and while it
    evaluates: the state of training and its code stay where they are."""
    *stages, evaluation = [one["memory_bytes"] for one in programs]
    own = evaluation["outputs"] + evaluation["temporaries"] + evaluation["code"]
    return {
        "train": max(one["total"] for one in stages) + evaluation["code"],
        "eval": stages[-1]["arguments"] + stages[-1]["code"] + own,
    }


def _hours(cfg: RunConfig, programs: dict[Program, dict]) -> dict[str, float]:
    """Of all updates and of all evaluations at their rooflines."""
    seconds = {program: one["roofline_seconds"]["step"] for program, one in programs.items()}
    stages, found, evaluation = run_stages(cfg), work(cfg), ("eval", cfg.model)
    ends = [first for first, _ in stages[1:]] + [found.steps]
    training = sum((end - first) * seconds["train", model] for (first, model), end in zip(stages, ends, strict=True))
    batches = -(-found.eval_puzzles // programs[evaluation]["batch_rows"])
    scored = 1 + len(cfg.optim.other_decays)  # every averaged set of weights is evaluated
    return {
        "train_hours": training / 3600,
        "eval_hours": found.evaluations * scored * batches * seconds[evaluation] / 3600,
    }


def _problem(cfg: RunConfig, topology: Device, programs: list[dict], needed: dict[str, int]) -> str:
    """Why the run cannot be as it is, and what to do; empty for one that fits. needed: of a run that was compiled."""
    for one in programs:
        if one["crash"]:
            return f"{_NAMES[one['kind']]} was not compiled: {one['crash']}"
    sizes = {one["kind"]: one["overflow_bytes"] for one in programs if one["overflow_bytes"]}
    sizes = sizes or {kind: (size, topology.usable_bytes) for kind, size in needed.items()}
    kind, (size, there) = max(sizes.items(), key=lambda pair: pair[1][0])
    if size <= there:
        return ""
    said = f"{_NAMES[kind]} needs {size / 1e9:.1f} GB a chip and {topology.name} has {there / 1e9:.1f} for it: "
    mesh = memory.abstract_mesh(cfg, topology.chips)
    if kind == "eval":
        rows = programs[-1]["batch_rows"] // 2 // mesh.size * mesh.size
        return said + (f"set eval.batch_size={rows}, which scores the same" if rows else "take more chips")
    state, parts = memory.state_bytes(cfg, mesh), cfg.train.accumulation
    return said + memory.remedy(cfg, mesh, lambda more: state + (size - state) * parts / more, there)
