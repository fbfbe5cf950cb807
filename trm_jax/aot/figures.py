"""What a run's compiled programs say about the run: memory, whether it fits, what to do, time at best."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from trm_jax.aot.compile import Compiled, find, versions
from trm_jax.aot.programs import Program, cycles_of, programs_of, run_stages
from trm_jax.configs import resolve
from trm_jax.planning import Device, memory, work
from trm_jax.train.config import RunConfig


def figures(name: str, config, topology: Device, compiled: Mapping[Program, Compiled]) -> dict:
    """The record of a run on a slice, as `trm compile --json` writes it: bytes of one chip, FLOPs of all together,
    seconds at best.

    config: its ConfigDict. compiled: what became of its programs, as `programs_of` orders them. Where all could be
    compiled the record holds "train_bytes", "eval_bytes", "train_hours" and "eval_hours" too. "needed_bytes" is the
    most of one chip at any time; of a chip that is too small what the compiler says; None where it crashed.
    """
    cfg = resolve.freeze(config)
    programs, found = [_program(cfg, topology, *pair) for pair in compiled.items()], work(cfg)
    needed, complete = {}, all(one["memory_bytes"] for one in programs)
    if complete:
        needed = _needed(programs)
    else:
        overflows = {one["kind"]: one["overflow_bytes"][0] for one in programs if one["overflow_bytes"]}
    most = max((needed if complete else overflows).values(), default=None)
    return {
        "name": name,
        "topology": topology.name,
        "chips": topology.chips,
        "usable_bytes": topology.usable_bytes,
        "versions": versions(),
        "steps": found.steps,
        "train_flops": found.train_flops,
        "eval_flops": found.eval_flops,
        "fits": complete and most <= topology.usable_bytes,
        "problem": _problem(cfg, topology, programs, needed),
        "needed_bytes": most,
        **{f"{kind}_bytes": size for kind, size in needed.items()},
        **(_hours(cfg, programs) if complete else {}),
        "programs": programs,
    }


def known_figures(name: str, config, topology: Device, root: Path) -> dict | None:
    """The same from what was compiled before and kept in `root`; None when it was not, or crashed."""
    compiled = {program: find(config, topology, program, root) for program in programs_of(resolve.freeze(config))}
    return figures(name, config, topology, compiled) if all(compiled.values()) else None


def _program(cfg: RunConfig, topology: Device, program: Program, compiled: Compiled) -> dict:
    """One program: its batch, its analytic FLOPs of one execution, what became of it, seconds of its roofline."""
    rows = program.rows(cfg, memory.abstract_mesh(cfg, topology.chips))
    record = {**dataclasses.asdict(program), "batch_rows": rows, "flops": program.flops(cfg, rows)}
    record |= dataclasses.asdict(compiled)
    if not compiled.memory_bytes:
        return record
    sent = sum(kind["sent_bytes"] for kind in compiled.collectives_by_kind.values())
    best = {
        "compute": record["flops"] / topology.chips / (topology.peak_tflops * 1e12),
        "memory": compiled.traffic_bytes / (topology.bandwidth_tb_s * 1e12),
        "links": sent / (topology.links * topology.tpu.link_gb_s * 1e9) if sent else 0.0,
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


def _hours(cfg: RunConfig, programs: list[dict]) -> dict[str, float]:
    """Of all updates and of all evaluations at their rooflines; a stage that was not compiled takes time as its
    FLOPs."""
    *_, last, evaluation = programs
    stages, found = run_stages(cfg), work(cfg)
    ends = [first for first, _ in stages[1:]] + [found.steps]
    known = {one["cycles"]: one["roofline_seconds"]["step"] for one in programs[:-1]}
    training = 0.0
    for (first, model), end in zip(stages, ends, strict=True):
        cycles = cycles_of(model)
        flops = Program("train", cycles).flops(cfg, last["batch_rows"])
        scaled = last["roofline_seconds"]["step"] * flops / last["flops"]
        training += (end - first) * known.get(cycles, scaled)
    batches = -(-found.eval_puzzles // evaluation["batch_rows"])
    scored = 1 + len(cfg.optim.other_decays)  # every averaged set of weights is evaluated
    evaluating = found.evaluations * scored * batches * evaluation["roofline_seconds"]["step"]
    return {"train_hours": training / 3600, "eval_hours": evaluating / 3600}


def _problem(cfg: RunConfig, topology: Device, programs: list[dict], needed: dict[str, int]) -> str:
    """Why the run cannot be as it is, and what to do; empty for one that fits. needed: of a run that was compiled."""
    names = {"train": "training", "eval": "evaluation"}
    for one in programs:
        if one["crash"]:
            return f"{names[one['kind']]} was not compiled: {one['crash']}"
        if one["overflow_bytes"]:
            kind, (size, there) = one["kind"], one["overflow_bytes"]
            break
    else:
        kind, there = max(needed, key=needed.get), topology.usable_bytes
        size = needed[kind]
    if size <= there:
        return ""
    said = f"{names[kind]} needs {size / 1e9:.1f} GB a chip and {topology.name} has {there / 1e9:.1f} for it: "
    mesh = memory.abstract_mesh(cfg, topology.chips)
    if kind == "eval":
        rows = programs[-1]["batch_rows"] // 2 // mesh.size * mesh.size
        return said + (f"set eval.batch_size={rows}, which scores the same" if rows else "take more chips")
    state, parts = memory.state_bytes(cfg, mesh), cfg.train.accumulation
    return said + memory.remedy(cfg, mesh, lambda more: state + (size - state) * parts / more, there)
