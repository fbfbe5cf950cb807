"""The figures of compiled runs as a table, as markdown and as JSON."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence

from trm_jax.aot import store
from trm_jax.aot.figures import ProgramFigures, RunFigures
from trm_jax.aot.roofline import ASSUMPTIONS
from trm_jax.aot.topologies import Topology

# Of the table: {key of a cell: its heading}.
COLUMNS = {
    "run": "run",
    "steps": "steps",
    "arguments": "GB a chip: arguments",
    "temporaries": "temporaries",
    "training": "training",
    "evaluation": "evaluation",
    "reduced": "all-reduce MB a step",
    "others": "other collectives MB",
    "in_loops": "sent from loops",
    "flops": "FLOPs a step",
    "traffic": "memory GB",
    "compute_ms": "compute ms",
    "memory_ms": "memory ms",
    "links_ms": "links ms",
    "step_ms": "step ms",
    "bound": "bound by",
    "efficiency": "scaling efficiency",
    "train_hours": "training h",
    "eval_hours": "evaluations h",
    "fits": "fits",
}


def head(topology: Topology) -> list[str]:
    """What the figures are of: the slice, the compiler."""
    device, versions, usable = topology.device, store.compiler_versions(), topology.usable_bytes
    links = f"; {topology.links} links of {topology.link_bytes_s / 1e9:g} GB/s in each direction "
    return [
        f"{device.title}: {device.chips} chip{'s' * (device.chips > 1)}, {'x'.join(map(str, topology.shape))}, on "
        f"{device.hosts} host{'s' * (device.hosts > 1)}; a program may use {usable / 1e9:.1f} GB ({usable / 2**30:g} "
        f"GiB) of a chip; {device.peak_tflops:g} TFLOP/s, {device.bandwidth_tb_s:g} TB/s ({device.source}, "
        f"{device.date})" + (f"{links}({topology.link_source})" if topology.links else ""),
        "compiled, not run: "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f", trm_jax {importlib.metadata.version('trm_jax')}",
    ]


def assumptions(runs: Iterable[RunFigures]) -> list[str]:
    """What the figures take for granted, for these runs."""
    said = ["training holds the evaluation's code, and evaluation the training's state and code", *ASSUMPTIONS]
    if any(one.compiled.unknown_loops for run in runs for one in run.programs):
        said.append("a loop whose length the compiled program does not say is counted once")
    return said


def by_kind(one: ProgramFigures) -> dict[str, dict]:
    """{"all-reduce": {"count", "bytes", "sent_bytes", "bytes_in_loops"}}: of one execution, on one device."""
    found: dict[str, dict] = {}
    for collective in one.compiled.collectives:
        total = found.setdefault(collective["kind"], {"count": 0, "bytes": 0, "sent_bytes": 0.0, "bytes_in_loops": 0})
        total["count"] += collective["times"]
        total["bytes"] += collective["bytes"]
        total["sent_bytes"] += collective["sent_bytes"]
        total["bytes_in_loops"] += collective["bytes"] * (collective["times"] > 1)
    return found


def short(figure: float) -> str:
    """Three digits: 0.0123, 4.56, 789, 12,345."""
    return f"{figure:.3g}" if figure < 999.5 else f"{figure:,.0f}"


def cells(run: RunFigures) -> dict[str, str]:
    """One row: a text for each of COLUMNS."""
    row = dict.fromkeys(COLUMNS, "-") | {"run": run.name, "steps": f"{run.work.steps:,}", "fits": "no"}
    for one in run.programs:
        if one.compiled.overflow:
            row["training" if one.program.kind == "train" else "evaluation"] = short(one.compiled.overflow[0] / 1e9)
    if not run.complete:
        return row
    training, memory, best = run.training, run.training.compiled.memory, run.training.roofline
    kinds = by_kind(training)
    whole = sum(kind["bytes"] for kind in kinds.values())
    in_loops = sum(kind["bytes_in_loops"] for kind in kinds.values())
    reduced = kinds.pop("all-reduce", {"bytes": 0})
    return row | {
        "arguments": short(memory.arguments / 1e9),
        "temporaries": short(memory.temporaries / 1e9),
        "training": short(run.train_bytes / 1e9),
        "evaluation": short(run.eval_bytes / 1e9),
        "reduced": short(reduced["bytes"] / 1e6),
        "others": ", ".join(f"{kind} {short(total['bytes'] / 1e6)}" for kind, total in kinds.items()) or "0",
        "in_loops": f"{in_loops / whole:.0%}" if whole else "-",
        "flops": f"{training.flops:.2e}",
        "traffic": short(training.compiled.traffic_bytes / 1e9),
        "compute_ms": short(1e3 * best.compute),
        "memory_ms": short(1e3 * best.memory),
        "links_ms": short(1e3 * best.links),
        "step_ms": short(1e3 * best.seconds),
        "bound": best.bound,
        "efficiency": f"{best.efficiency:.1%}",
        "train_hours": short(run.train_hours),
        "eval_hours": short(run.eval_hours),
        "fits": "yes" if run.fits else "no",
    }


def stage_lines(run: RunFigures) -> list[str]:
    """A line for each stage of a curriculum but the last; none without one."""
    return [
        f"{run.name} at L {one.program.cycles[0]}, H {one.program.cycles[1]}: "
        f"{short(one.compiled.memory.temporaries / 1e9)} GB of temporaries, {one.flops:.2e} FLOPs, "
        f"{short(1e3 * one.roofline.seconds)} ms a step"
        for one in run.stages[:-1]
        if one.compiled.memory
    ]


def markdown(runs: Sequence[RunFigures], topology: Topology, aliases: Mapping[str, Sequence[str]], command: str) -> str:
    """A page: what the figures are of, the table, what they take for granted, what does not fit."""
    rows = [COLUMNS.values(), ["---", *["---:"] * (len(COLUMNS) - 1)], *(cells(run).values() for run in runs)]
    notes = [
        *(f"- {line}" for run in runs for line in stage_lines(run)),
        *(f"- {name} is also {', '.join(others)}" for name, others in aliases.items()),
        *(f"- **{run.name}**: {run.problem}" for run in runs if run.problem),
    ]
    lines = [
        f"# Compiled for {topology.name}",
        "",
        f"Made by `{command}`.",
        "",
        *(f"- {line}" for line in head(topology)),
        "",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        *(notes + [""] if notes else []),
        "What the figures take for granted:",
        "",
        *(f"- {line}" for line in assumptions(runs)),
    ]
    return "\n".join(lines) + "\n"


def _program_record(one: ProgramFigures) -> dict:
    compiled = one.compiled
    record = {
        **dataclasses.asdict(one.program),
        "batch_rows": one.rows,
        "flops": one.flops,
        "lower_seconds": compiled.lower_seconds,
        "compile_seconds": compiled.compile_seconds,
    }
    if compiled.crash or compiled.overflow:
        return {**record, "crash": compiled.crash, "overflow_bytes": compiled.overflow}
    return {
        **record,
        "memory_bytes": {**dataclasses.asdict(compiled.memory), "total": compiled.memory.total},
        "traffic_bytes": compiled.traffic_bytes,
        "collectives_by_kind": by_kind(one),
        "collectives": list(compiled.collectives),
        "unknown_loops": compiled.unknown_loops,
        "roofline_seconds": {**dataclasses.asdict(one.roofline), "step": one.roofline.seconds},
        "efficiency_without_overlap": one.roofline.efficiency,
    }


def record(run: RunFigures) -> dict:
    """A run for JSON: bytes of one chip, FLOPs of all together, seconds at best."""
    hours = {"train_hours": run.train_hours, "eval_hours": run.eval_hours} if run.complete else {}
    needed = {"train_bytes": run.train_bytes, "eval_bytes": run.eval_bytes} if run.complete else {}
    return {
        "name": run.name,
        "topology": run.topology.name,
        "chips": run.topology.device.chips,
        "usable_bytes": run.topology.usable_bytes,
        "versions": store.compiler_versions(),
        "steps": run.work.steps,
        "train_flops": run.work.train_flops,
        "eval_flops": run.work.eval_flops,
        "fits": run.fits,
        "problem": run.problem,
        **needed,
        **hours,
        "programs": [_program_record(one) for one in run.programs],
        "assumptions": assumptions([run]),
    }
